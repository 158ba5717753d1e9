"""The monitor of a simulated node: the real one, with the simulation's wall clock."""

from __future__ import annotations

from collections.abc import Callable

from raftlog.consensus.messages import RaftMessage
from raftlog.runtime.consensus_state import ConsensusState


class SimulatedState(ConsensusState):
    """ConsensusState whose wall clock is the simulation's, and in which no message may break the protocol."""

    wall_microseconds: Callable[[], int]

    def step(self, message: RaftMessage, now: float) -> None:
        self.raft.step(message, now)

    def _log_time(self, now: float) -> int:
        raft = self.raft
        return self._log_clock.read(raft.current_term, raft.log.last_log_time, now, self.wall_microseconds())
