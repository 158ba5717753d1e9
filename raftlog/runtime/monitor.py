"""The lock of ConsensusState, its conditions, and the knowledge of who holds it (LogCabin's monitor).

Not re-entrant. Who is notified is woken when the notifier leaves the monitor, not before: a thread that wakes only to
find the monitor held costs two switches of context more, and a command wakes half a dozen threads.
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
        # Locks for which notified threads wait; released when the monitor is left.
        self._to_wake: list[threading.Lock] = []

    def __enter__(self) -> Monitor:
        self._lock.acquire()
        self._owner = threading.get_ident()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Taken before the lock is let go: from then on the list is the next one's.
        to_wake, self._to_wake = self._to_wake, []
        self._owner = 0
        self._lock.release()
        for gate in to_wake:
            gate.release()

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
        # A lock for each thread that waits, which it holds itself and tries to take once more.
        self._waiting: list[threading.Lock] = []
        # Until when whoever waits does so, at most: who has something for later than that need not notify.
        self.deadline = float("-inf")

    def wait_until(self, deadline: float) -> None:
        """Leave the monitor until notified or until `deadline` (monotonic seconds; inf: no bound); re-enter.

        The caller re-checks everything it knew: other threads were inside meanwhile.
        """
        monitor = self._monitor
        monitor.assert_held()
        timeout = -1.0
        if deadline != float("inf"):
            timeout = deadline - monitor.monotonic()
            if timeout <= 0:
                return
            timeout = min(timeout, threading.TIMEOUT_MAX)
        gate = threading.Lock()
        gate.acquire()
        self._waiting.append(gate)
        self.deadline = deadline
        monitor.__exit__(None, None, None)
        try:
            gate.acquire(timeout=timeout)
        finally:
            monitor.__enter__()
            if gate in self._waiting:  # nobody notified
                self._waiting.remove(gate)

    @property
    def is_waited_for(self) -> bool:
        return bool(self._waiting)

    def notify(self) -> None:
        """Wake all who wait, once the monitor is left."""
        self._monitor.assert_held()
        if self._waiting:
            self._monitor._to_wake += self._waiting
            self._waiting = []
