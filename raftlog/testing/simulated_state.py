"""The monitor of a simulated node: the real ConsensusState, with the simulation's clocks and without threads."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from raftlog.consensus.messages import RaftMessage
from raftlog.runtime.consensus_state import ConsensusState
from raftlog.runtime.monitor import Monitor, MonitorCondition


class WouldWait(AssertionError):
    """A thread would wait here. The simulation sees to it that none has to."""


class SimulatedCondition(MonitorCondition):
    """Remembers that it was notified."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.deadline = float("-inf")  # the simulation asks for deadlines itself
        self.notified = False

    @property
    def is_waited_for(self) -> bool:
        return True

    def wait_until(self, deadline: float) -> None:
        raise WouldWait

    def notify(self) -> None:
        self.notified = True

    def take(self) -> bool:
        notified, self.notified = self.notified, False
        return notified


class SimulatedMonitor(Monitor):
    """A monitor for one thread; entering it twice is an error, as with the real one."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self._is_held = False

    def __enter__(self) -> Monitor:
        if self._is_held:
            raise AssertionError("the monitor is entered twice")
        self._is_held = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_held = False

    def condition(self) -> MonitorCondition:
        return SimulatedCondition(self)

    def assert_held(self) -> None:
        if not self._is_held:
            raise AssertionError("the monitor is not held")


class SimulatedState(ConsensusState):
    """ConsensusState whose wall clock is the simulation's, and in which no message may break the protocol."""

    wall_microseconds: Callable[[], int]

    def step(self, message: RaftMessage, now: float) -> None:
        self.raft.step(message, now)

    def _log_time(self, now: float) -> int:
        raft = self.raft
        return self._log_clock.read(raft.current_term, raft.log.last_log_time, now, self.wall_microseconds())
