"""This process's way to the host's node: a client of `raft run`, or, where the cluster has one voter, the node itself.

A fresh project needs no second terminal: while no node runs, a process that proposes becomes the node, and lets go a
moment after its last proposal, at its end, or soon after another process shows interest in the directory. So
`runserver` and `shell` take turns, and `raft run` takes over at the next pause. Who waits does so within the time
limit of its proposal. The session and the reserved keys of a process are in the log, and outlive each change.
"""

from __future__ import annotations

import atexit
import enum
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from django.db.utils import Error as DjangoDatabaseError

from raftlog.conf import Settings, load_settings
from raftlog.consensus.entries import KEY
from raftlog.consensus.raft import Raft
from raftlog.exceptions import DirectoryInUse, NodeUnavailable, RaftlogError, StorageFailed
from raftlog.log_fields import log_fields
from raftlog.node import STOP_TIMEOUT, Node, max_message_bytes
from raftlog.node_process import current_node, is_listening
from raftlog.runtime import clock
from raftlog.runtime.ports import NOT_PROPOSED, Outcome, Proposer
from raftlog.runtime.reads import ReadDone
from raftlog.storage.interest import Interest
from raftlog.storage.layout import METADATA
from raftlog.transport.client import NodeClient

logger = logging.getLogger("raftlog.node")

IDLE_TIME: Final = 0.3  # seconds after the last proposal until the directory is let go
SHORTEST_STAY: Final = 0.1  # seconds that a process keeps it though another one waits, if it has proposals
TURN_STAY: Final = 3.0  # seconds that the cluster's turn keeps it here, though another one waits, or after a renewal
LOOK_INTERVAL: Final = 0.05  # seconds between two looks whether somebody waits
POLL_INTERVAL: Final = 0.01  # seconds between two attempts to take the directory
YIELD: Final = 0.05  # seconds that a process leaves to those who waited for it
SEVERAL_FOR: Final = 10.0  # seconds for which a log that had several voters is taken to have them still
DRAIN_TIMEOUT: Final = 5.0  # seconds for what is outstanding, before the directory is let go to another process

HOW_TO_START = "start this host's node with `manage.py raft run`"

Done = Callable[[list[Outcome]], None]


class _SeveralVoters(NodeUnavailable):
    """This host is no cluster by itself: its log says so."""


class Place(enum.Enum):
    """Where the node is, as this process knows it."""

    AWAY = "away"  # in another process, or nowhere
    MOVING = "moving"  # the keeper becomes the node, or stops being it; proposals queue
    HERE = "here"


class Queued(NamedTuple):
    """A proposal, or a wish without payloads, that waits until this process is the node."""

    payloads: list[bytes]
    deadline: float
    done: Done
    # Told why it never will be, instead of `done`.
    refused: Callable[[str], None] | None = None


class HostProposer:
    """Implements ports.Proposer. Thread-safe; one for each process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client = NodeClient(
            f"unix:{settings.socket_path}",
            settings.secret_keys,
            settings.cluster,
            max_message_bytes=max_message_bytes(settings),
            max_waiting=settings.max_waiting_proposals,
        )
        self._start_over()

    def _start_over(self) -> None:
        """Also in a forked child: the parent's node and keeper are not ours."""
        self._changed = threading.Condition()
        # All below: with _changed held.
        self._place = Place.AWAY
        self._node: Node | None = None
        self._keeper: threading.Thread | None = None
        self._queue: list[Queued] = []
        self._outstanding = 0  # payloads and reads given to the node here, without an outcome
        self._used_at = 0.0
        # The cluster's turns that this process holds while it is the node -> when that was said last.
        self._turns: dict[bytes, float] = {}
        self._leaving = False  # somebody waits in leave()
        # Why this process may not be the node again: a write of its log failed.
        self._failure = ""
        # Until when the log need not be opened once more to be told that the cluster has several voters, and the words.
        self._several: tuple[float, str] = (0.0, "")

    # ports.Proposer

    def propose(self, payloads: list[bytes], timeout: float, done: Done) -> None:
        """See ports.Proposer. Raises NodeUnavailable, Overloaded: nothing was sent."""
        with self._changed:
            if self._place is Place.MOVING:
                self._queue.append(Queued(payloads, clock.monotonic() + timeout, done))
                return
            node = self._node
            if node is not None:
                self._admit(payloads)
        if node is not None:
            node.service.propose(payloads, timeout, self._counted(done))
            return
        try:
            self._client.propose(payloads, timeout, done)
            self._several = (0.0, "")  # a node runs, which may change who votes
        except NodeUnavailable as error:
            self._refuse_to_become(error)
            self._become_for(Queued(payloads, clock.monotonic() + timeout, done))

    def may_block(self) -> bool:
        """See ports.Proposer."""
        return self._node is None and self._place is not Place.MOVING and self._client.may_block()

    def read(self, timeout: float, done: ReadDone) -> None:
        """See ports.Proposer. Raises NodeUnavailable."""
        with self._changed:
            is_moving = self._place is Place.MOVING
        if not is_moving:
            try:
                self._read_here_or_away(timeout, done)
                return
            except NodeUnavailable as error:
                self._refuse_to_become(error)
        deadline = clock.monotonic() + timeout

        def arrived(_: list[Outcome]) -> None:
            try:
                self._read_here_or_away(max(deadline - clock.monotonic(), 0.001), done)
            except NodeUnavailable as error:
                done(0, str(error))

        self._become_for(Queued([], deadline, arrived, lambda text: done(0, text)))

    def _read_here_or_away(self, timeout: float, done: ReadDone) -> None:
        with self._changed:
            node = self._node
            if node is not None:
                self._outstanding += 1
        if node is not None:
            node.service.read(timeout, self._read_counted(done))
        else:
            self._client.read(timeout, done)

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        """See ports.Proposer. A turn that is held keeps the node here, within bounds."""
        deadline = clock.monotonic() + timeout
        with self._changed:
            is_away = self._place is Place.AWAY
        if is_away:
            try:
                return self._client.take_turn(key, is_fence=is_fence, timeout=timeout)
            except NodeUnavailable as error:
                self._refuse_to_become(error)
        arrived = threading.Event()

        def here(_: list[Outcome]) -> None:
            with self._changed:
                self._turns[key] = clock.monotonic()
            arrived.set()

        self._become_for(Queued([], deadline, here))
        arrived.wait(timeout)
        with self._changed:
            node = self._node
        left = max(deadline - clock.monotonic(), 0.001)
        granted = node.service.take_turn(key, is_fence=is_fence, timeout=left) if node is not None else False
        if not granted:
            self._turn_is_over(key)
        return granted

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        with self._changed:
            node = self._node
            if key in self._turns:
                self._turns[key] = clock.monotonic()
        (node.service if node is not None else self._client).renew_turn(key, is_fence=is_fence)

    def release_turn(self, key: bytes) -> None:
        with self._changed:
            node = self._node
        self._turn_is_over(key)
        (node.service if node is not None else self._client).release_turn(key)

    def _turn_is_over(self, key: bytes) -> None:
        with self._changed:
            if self._turns.pop(key, None) is not None:
                self._used_at = clock.monotonic()

    def status(self) -> dict[str, Any]:
        with self._changed:
            node = self._node
        return node.status() if node is not None else self._client.status()

    def leave(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop being the node, if this process is. Blocks until the directory is free."""
        with self._changed:
            keeper = self._keeper
            self._leaving = True
            self._changed.notify_all()
        if keeper is not None:
            keeper.join(timeout)
        with self._changed:
            self._leaving = False

    # Becoming the node

    def _refuse_to_become(self, error: NodeUnavailable) -> None:
        """Raises NodeUnavailable where this process must not become the node that it could not reach."""
        settings = self.settings
        if self._failure:
            raise NodeUnavailable(f"this process was the node and cannot be it again ({self._failure}); restart it")
        if not (settings.data_dir / METADATA).exists() and set(settings.members) != {settings.node_id}:
            raise NodeUnavailable(f"no node runs on this host: {HOW_TO_START} ({error})") from error
        until, words = self._several
        if clock.monotonic() < until:
            raise NodeUnavailable(words)

    def _become_for(self, queued: Queued) -> None:
        with self._changed:
            self._queue.append(queued)
            if self._place is Place.HERE:  # another thread was faster
                self._submit_queue()
            elif self._keeper is None:
                self._place = Place.MOVING
                self._keeper = threading.Thread(target=self._keep, name="raftlog-host", daemon=True)
                self._keeper.start()

    def _keep(self) -> None:
        """Body of the keeper thread: be the node for as long as there are proposals."""
        problem = "the thread that keeps the node has died"
        try:
            while self._has_work():
                try:
                    node = self._become()
                    if node is not None:
                        self._stay(node)
                except NodeUnavailable as error:
                    self._refuse_queue(lambda queued: True, str(error))
                except (RaftlogError, DjangoDatabaseError, OSError) as error:
                    self._refuse_queue(lambda queued: True, f"this process cannot be the node: {error}")
            problem = ""
        finally:
            if problem:
                self._refuse_queue(lambda queued: True, problem)
                self._has_work()

    def _has_work(self) -> bool:
        """Whether proposals wait. Where none do, the keeper's end, seen by all at once."""
        with self._changed:
            if self._queue:
                return True
            self._place, self._keeper = Place.AWAY, None
            return False

    def _become(self) -> Node | None:
        """The started node; None where the queue was answered otherwise: by `raft run`, or as it expired."""
        node = Node(self.settings)
        try:
            node.start(refuse_several_voters)
        except DirectoryInUse as error:
            return self._wait_to_become(node, error)
        except _SeveralVoters as error:
            # To open the log is to read it: not for each proposal of an application whose node is down.
            self._several = (clock.monotonic() + SEVERAL_FOR, str(error))
            raise
        return node

    def _wait_to_become(self, node: Node, in_use: DirectoryInUse) -> Node | None:
        with Interest(self.settings.data_dir):
            while True:
                now = clock.monotonic()
                self._refuse_queue(
                    lambda queued, now=now: queued.deadline <= now,  # type: ignore[misc]
                    f"another process was this host's node for the whole time limit: {in_use}",
                )
                with self._changed:
                    is_over = self._leaving or not self._queue
                if is_over:
                    self._refuse_queue(lambda queued: True, f"this process ends, and did not become the node: {in_use}")
                    return None
                if self._hand_to_client():
                    return None
                clock.sleep(POLL_INTERVAL)
                try:
                    node.start(refuse_several_voters)
                except DirectoryInUse as error:
                    in_use = error
                    continue
                return node

    def _hand_to_client(self) -> bool:
        """Propose what waits through the socket of `raft run`; False where nobody listens there."""
        while True:
            with self._changed:
                if not self._queue:
                    return True
                queued = self._queue[0]
            if not queued.payloads and not is_listening(self.settings):
                return False
            try:
                if queued.payloads:
                    self._client.propose(queued.payloads, max(queued.deadline - clock.monotonic(), 0.001), queued.done)
                else:
                    queued.done([])
            except NodeUnavailable:
                return False
            with self._changed:
                self._queue.pop(0)

    # Being it

    def _stay(self, node: Node) -> None:
        """Until nobody here needs it, somebody else does, or a thread of it died."""
        came_at = clock.monotonic()
        wanted = Interest(self.settings.data_dir)
        with self._changed:
            self._node, self._place = node, Place.HERE
            self._submit_queue()
        while not self._lets_go(node, clock.monotonic() - came_at, wanted.is_shown()):
            with self._changed:
                if not self._leaving:
                    self._changed.wait(LOOK_INTERVAL)
        if node.failed.is_set():
            if isinstance(node.service.failed_by, StorageFailed):  # what is on disk is not known to this process
                self._failure = node.failure
            logger.critical(
                "this process is no node any more: %s",
                node.failure,
                extra=log_fields("node_stopped", reason=node.failure),
            )
        node.stop()
        if wanted.is_shown():
            clock.sleep(YIELD)

    def _lets_go(self, node: Node, stay: float, is_wanted: bool) -> bool:
        """Decide, and if so let nothing more in and wait for what is outstanding."""
        with self._changed:
            now = clock.monotonic()
            has_turn = any(now - said_at < TURN_STAY for said_at in self._turns.values())
            in_use = self._outstanding > 0 or has_turn
            idle = 0.0 if in_use else now - self._used_at
            hurried = is_wanted and (not in_use or stay > (TURN_STAY if has_turn else SHORTEST_STAY))
            if not (self._leaving or hurried or idle > IDLE_TIME or node.failed.is_set()):
                return False
            self._node, self._place = None, Place.MOVING
            self._changed.wait_for(lambda: not self._outstanding or node.failed.is_set(), DRAIN_TIMEOUT)
            return True

    def _submit_queue(self) -> None:
        """Give the node what waited for it. _changed is held, which keeps the order; the node answers elsewhere."""
        node = self._node
        assert node is not None
        queue, self._queue = self._queue, []
        self._used_at = now = clock.monotonic()
        for payloads, deadline, done, _ in queue:
            if payloads:
                self._admit(payloads)
                node.service.propose(payloads, max(deadline - now, 0.001), self._counted(done))
            else:
                done([])  # the node is here, which is all that was wanted

    def _admit(self, payloads: list[bytes]) -> None:
        """_changed: held. A turn ends with the entry for which it was taken."""
        self._outstanding += len(payloads)
        if self._turns:
            for payload in payloads:
                self._turns.pop(payload[KEY], None)

    def _counted(self, done: Done) -> Done:
        def counted(outcomes: list[Outcome]) -> None:
            self._answered(len(outcomes))
            done(outcomes)

        return counted

    def _read_counted(self, done: ReadDone) -> ReadDone:
        def counted(index: int, reason: str) -> None:
            self._answered(1)
            done(index, reason)

        return counted

    def _answered(self, count: int) -> None:
        with self._changed:
            self._outstanding -= count
            self._used_at = clock.monotonic()
            if not self._outstanding and self._place is Place.MOVING:
                self._changed.notify_all()

    def _refuse_queue(self, is_over: Callable[[Queued], bool], text: str) -> None:
        with self._changed:
            over = [queued for queued in self._queue if is_over(queued)]
            self._queue = [queued for queued in self._queue if queued not in over]
        result = msgspec.msgpack.encode((NodeUnavailable.__name__, text))
        for queued in over:
            if queued.refused is not None:
                queued.refused(text)
                continue
            queued.done([Outcome(payload[KEY], NOT_PROPOSED, 0, result) for payload in queued.payloads])


def refuse_several_voters(raft: Raft) -> None:
    """Raises NodeUnavailable where this host is no cluster by itself. The log decides, once there is one."""
    voters = raft.configuration.all_voters
    if voters != {raft.node_id}:
        several = f"the cluster's voters are {', '.join(sorted(voters))}"
        raise _SeveralVoters(f"no node runs on this host, and {several}: {HOW_TO_START}")


_host: HostProposer | None = None
_guard = threading.Lock()


def local_proposer() -> Proposer:
    """Where this process proposes: the node that `raft run` made of it, else its way to the node of this host."""
    global _host
    current = current_node()
    if current is not None:
        return current.service
    with _guard:
        if _host is None:
            _host = HostProposer(load_settings())
            atexit.register(_host.leave)
        return _host


def _forked() -> None:
    global _guard
    _guard = threading.Lock()
    if _host is not None:
        _host._start_over()


os.register_at_fork(after_in_child=_forked)
