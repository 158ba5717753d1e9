"""A thread of a node: named, stopped by a flag, joined within a bound, and loud when it dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from raftlog.log_fields import log_fields
from raftlog.runtime import clock

logger = logging.getLogger("raftlog.runtime")


class NodeThread:
    """Runs `main` in a daemon thread until it returns. A thread that raises calls `on_death(name, error)`.

    `doing` is a word for `raft threads`: what the thread does or waits for; `main` sets it.
    """

    def __init__(self, name: str, main: Callable[[], None], on_death: Callable[[str, BaseException], None]) -> None:
        self.name = name
        self.doing = "not started"
        self.since = 0.0
        # Seconds since the start in which it was not waiting: what it has finished doing, and what it does now.
        self._busy = 0.0
        self._main = main
        self._on_death = on_death
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self.now_doing("starting")
        self._thread.start()

    def now_doing(self, what: str) -> None:
        """Record what the thread does from now on. Called by the thread itself; read by anyone."""
        now = clock.monotonic()
        if not is_waiting(self.doing):
            self._busy += now - self.since
        self.doing = what
        self.since = now

    @property
    def busy(self) -> float:
        """Seconds since its start in which it was not waiting. Any thread, about a moment ago."""
        return self._busy + (0.0 if is_waiting(self.doing) else clock.monotonic() - self.since)

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; says whether the thread has ended."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._main()
            self.now_doing("ended")
        except BaseException as error:  # noqa: BLE001  (logged, and told to the node)
            try:
                self.now_doing(f"died: {error}")
                logger.critical(
                    "thread %s died: %s",
                    *(self.name, error),
                    exc_info=True,
                    extra=log_fields("thread_died", about=self.name, reason=str(error)),
                )
            finally:  # whatever else is broken (a log handler, say), the node must know
                self._on_death(self.name, error)


def is_waiting(doing: str) -> bool:
    return doing.startswith(("wait", "not started", "ended", "died"))
