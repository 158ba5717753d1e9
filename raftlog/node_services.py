"""Threads that a project or a battery has run in the node's process: started and stopped with the node.

    @raftlog.node_service
    def watch(node):
        while not node.stopping.wait(1.0):
            if node.is_leader():
                ...

`raft run` starts each registered function in a thread of its own, once the node runs, and stops it before the node.
Registering starts nothing, so it may be done while apps are loaded. Only `raft run` does this: a process that is the
node for a moment (host.py) has none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from django.db import connections

from raftlog.log_fields import log_fields
from raftlog.runtime import clock

logger = logging.getLogger("raftlog.node")

RESTART_PAUSE: Final = 5.0  # seconds until a service that failed is started again
JOIN_TIMEOUT: Final = 5.0  # seconds for all of them, when the node stops


class NodeServiceContext:
    """What a service gets. `stopping` is set when it has to return; `is_leader()` asks whether this node leads now."""

    def __init__(self, node_id: str, is_leader: Callable[[], bool]) -> None:
        self.node_id = node_id
        self.is_leader = is_leader
        self.stopping = threading.Event()


Service = Callable[[NodeServiceContext], None]

_registered: dict[str, Service] = {}
_guard = threading.Lock()


def node_service(function: Service) -> Service:
    """Have `function` run beside this host's node, wherever it is defined. Thread-safe; a decorator."""
    with _guard:
        _registered[f"{function.__module__}.{function.__qualname__}"] = function
    return function


class NodeServices:
    """The running ones, of one node. A service that raises is logged and started again: it never harms the node."""

    def __init__(self, node_id: str, is_leader: Callable[[], bool]) -> None:
        self.context = NodeServiceContext(node_id, is_leader)
        with _guard:
            services = dict(_registered)
        self._threads = [
            threading.Thread(
                target=self._run, args=(name, service), name=f"raftlog-{node_id}-service-{name}", daemon=True
            )
            for name, service in sorted(services.items())
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def ask_to_stop(self) -> None:
        self.context.stopping.set()

    def join(self, timeout: float = JOIN_TIMEOUT) -> list[str]:
        """Wait for them; returns the names of threads that did not end in time, which die with the process."""
        deadline = clock.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - clock.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _run(self, name: str, service: Service) -> None:
        try:
            while not self.context.stopping.is_set():
                try:
                    service(self.context)
                    return
                except Exception:
                    logger.exception(
                        "the service %s failed, and is started again in %g s",
                        *(name, RESTART_PAUSE),
                        extra=log_fields("service_failed", about=name),
                    )
                    connections.close_all()  # one of them may be what failed
                    self.context.stopping.wait(RESTART_PAUSE)
        finally:
            connections.close_all()
