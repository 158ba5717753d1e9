"""The lock of ConsensusState, its conditions, and the knowledge of who holds it (LogCabin's monitor).

Not re-entrant. A condition counts its waiters, so that a notify with nobody waiting costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from raftlog.runtime import clock


class Monitor:
    """One lock. `with monitor:` enters; conditions made by condition() share it."""

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._owner = 0

    def __enter__(self) -> Monitor:
        self._lock.acquire()
        self._owner = threading.get_ident()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._owner = 0
        self._lock.release()

    def condition(self) -> MonitorCondition:
        return MonitorCondition(self)

    def assert_held(self) -> None:
        """Raise AssertionError unless the calling thread is inside the monitor."""
        if self._owner != threading.get_ident():
            raise AssertionError("the monitor is not held by this thread")


class MonitorCondition:
    """A condition variable of a Monitor. Every method: Monitor: held."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._condition = threading.Condition(monitor._lock)
        self._waiting = 0

    def wait_until(self, deadline: float) -> None:
        """Leave the monitor until notified or until `deadline` (monotonic seconds; inf: no bound); re-enter.

        The caller re-checks everything it knew: other threads were inside meanwhile.
        """
        self._monitor.assert_held()
        timeout: float | None = None
        if deadline != float("inf"):
            timeout = deadline - self._monitor.monotonic()
            if timeout <= 0:
                return
        self._waiting += 1
        self._monitor._owner = 0
        try:
            self._condition.wait(timeout)
        finally:
            self._monitor._owner = threading.get_ident()
            self._waiting -= 1

    def notify(self) -> None:
        self._monitor.assert_held()
        if self._waiting:
            self._condition.notify_all()
