"""The process that `raft run` makes: the node and Daphne, from the settings to the exit code."""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from raftlog import signals
from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.exceptions import DirectoryInUse
from raftlog.log_fields import log_fields
from raftlog.node import STOP_TIMEOUT, Node, max_message_bytes
from raftlog.node_services import JOIN_TIMEOUT, NodeServices
from raftlog.observing.disk import usage
from raftlog.observing.live import Live, group
from raftlog.observing.view import collect, health
from raftlog.runtime import clock
from raftlog.runtime.inspection import inspection_requests
from raftlog.runtime.members import membership_requests
from raftlog.runtime.turns import ClientTurns
from raftlog.storage.interest import Interest
from raftlog.transport.routing import raft_application
from raftlog.transport.server import DaphneServer, TlsFiles

logger = logging.getLogger("raftlog.node")

TAKE_OVER_TIMEOUT = 15.0  # seconds that `raft run` waits for a process that is the node for a moment
TAKE_OVER_INTERVAL = 0.02
MAX_APPLIED_WAIT = 60.0  # seconds for which a client's question is kept
REMOVED = 3  # exit code of a node that was removed from its cluster

_current: Node | None = None


def run_node(
    settings: Settings,
    asgi_application: Any,
    *,
    on_ready: Callable[..., None] | None = None,
    on_waiting: Callable[[str], None] = lambda text: None,
) -> int:
    """What `raft run` does: the node and Daphne, until SIGTERM or SIGINT, or until a thread dies.

    Must be called in the main thread. Returns the exit code: 0 stopped as asked, 2 stopped by itself, 3 removed from
    the cluster. `on_waiting` is told, once, what is waited for before the start. Raises StorageError, TransportError,
    OSError where it cannot start.
    """
    global _current
    from raftlog.feed.following import follow_changes  # which asks this module for the node

    # Slow to import: done before peers can hear from this node, which then soon listens for their answers.
    importlib.import_module("daphne.server")
    node = Node(settings, keeps_backups=settings.state_machine == "database")
    start_when_free(node, on_waiting)
    _current = node
    host, port = settings.bind
    tls = None
    if settings.uses_tls and settings.tls_certificate and settings.tls_key:
        tls = TlsFiles(str(settings.tls_certificate), str(settings.tls_key), str(settings.tls_ca or "") or None)
    turns = ClientTurns(node.service)
    services = NodeServices(settings.node_id, node.is_leader)
    live = make_live(node)
    node.observing.on_event = live.wake

    application = raft_application(
        node.service,
        node.identity,
        asgi_application,
        allow_peer=node.service.knows,
        on_hello=node.hear,
        refusals=node.observing.refusals,
        max_message_bytes=max_message_bytes(settings),
        max_waiting_proposals=settings.max_waiting_proposals,
        requests={
            **node.observing.requests(node.status, settings.data_dir, node.service.state.measures.as_data),
            **membership_requests(node.service),
            **inspection_requests(node.service),
            **node.requests(),
            "watch": lambda arguments: live.watched(),
        },
        deferred_requests={
            "read_index": lambda arguments, done: _read_index(node, arguments, done),
            "applied_after": lambda arguments, done: _applied_after(node, arguments, done),
        },
        bound_requests={"take_turn": turns.take, "renew_turn": turns.renew, "release_turn": turns.release},
        client_gone=turns.gone,
    )
    daphne = DaphneServer(
        application,
        host,
        port,
        unix_socket=str(settings.socket_path),
        tls=tls,
        on_listening=lambda addresses: on_ready() if on_ready else None,
        background=live.run,
    )
    follower = follow_changes() if signals.rows_changed.has_listeners() else None
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    stopped = threading.Event()
    threading.Thread(
        target=_stop_when_asked, args=(node, services, daphne, stopping, stopped), name="raftlog-stop", daemon=True
    ).start()
    services.start()
    try:
        daphne.run()
    finally:
        stopping.set()
        stopped.wait(STOP_TIMEOUT + JOIN_TIMEOUT + 1)
        application.inbound.close()
        if follower is not None:
            follower.stop()
        _current = None
    if node.failed.is_set():
        logger.critical(
            "the node has stopped: %s",
            node.failure,
            extra=log_fields("node_stopped", node=settings.node_id, reason=node.failure),
        )
        return 2
    if node.removed.is_set():
        logger.warning(
            "%s has stopped: it was removed from the cluster",
            settings.node_id,
            extra=log_fields("node_stopped", node=settings.node_id, reason="removed"),
        )
        return REMOVED
    return 0


def start_when_free(node: Node, on_waiting: Callable[[str], None], timeout: float = TAKE_OVER_TIMEOUT) -> None:
    """Start it once the process that is the node for a moment (host.py) has let go. Raises as Node.start().

    DirectoryInUse at once where it is another `raft run`, which listens, and never lets go.
    """
    settings = node.settings
    try:
        node.start()
        return
    except DirectoryInUse as error:
        in_use = error
    if is_listening(settings):
        raise in_use
    on_waiting(f"{in_use}; waiting until it lets go")
    deadline = clock.monotonic() + timeout
    with Interest(settings.data_dir):
        while clock.monotonic() < deadline and not is_listening(settings):
            clock.sleep(TAKE_OVER_INTERVAL)
            try:
                node.start()
                return
            except DirectoryInUse as error:
                in_use = error
    raise in_use


def is_listening(settings: Settings) -> bool:
    """Whether a node of `raft run` serves this host's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(settings.socket_path))
        except OSError:
            return False
    return True


def make_live(node: Node) -> Live:
    settings, state = node.settings, node.service.state

    def ask(target: str | None) -> dict[str, Any]:
        return {**node.status(), "disk": usage(settings.data_dir)} if target is None else fetch_status(settings, target)

    def look() -> dict[str, Any]:
        report = collect(settings, ask)
        return report | {"here": settings.node_id, "health": health(report)}

    def sample() -> tuple[int, Mapping[str, Any], int, str]:
        raft = state.raft
        return raft.commit_index, state.measures.as_data(), raft.current_term, raft.leader_id

    return Live(group(settings.cluster, settings.node_id), look, sample)


def _stop_when_asked(
    node: Node, services: NodeServices, daphne: DaphneServer, stopping: threading.Event, stopped: threading.Event
) -> None:
    while not stopping.wait(0.2):
        if node.failed.is_set() or node.removed.is_set():
            break
    try:
        services.ask_to_stop()
        node.stop()  # a service that waits for a proposal is answered
        if left := services.join():
            logger.error(
                "these services did not end: %s",
                ", ".join(left),
                extra=log_fields("threads_left", about=", ".join(left)),
            )
    finally:
        stopped.set()
        daphne.stop()


def _read_index(node: Node, arguments: dict[str, Any], done: Callable[[Any], None]) -> None:
    timeout = float(arguments.get("timeout", 5.0))
    node.service.read(timeout, lambda index, reason: done({"index": index, "reason": reason}))


def _applied_after(node: Node, arguments: dict[str, Any], done: Callable[[Any], None]) -> None:
    """Answer what is applied, once it is more than `index`, or after `timeout` seconds. In the event loop's thread."""
    loop = asyncio.get_running_loop()

    def reached(index: int) -> None:
        loop.call_soon_threadsafe(end, index)

    def end(index: int) -> None:
        timer.cancel()
        done(index)

    def give_up() -> None:
        if take_back():
            done(node.applied.index)

    timer = loop.call_later(min(float(arguments["timeout"]), MAX_APPLIED_WAIT), give_up)
    take_back = node.applied.add(int(arguments["index"]), reached)


def current_node() -> Node | None:
    """The node that run_node() runs in this process."""
    return _current
