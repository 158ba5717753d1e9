"""What others ask of a simulated node: callers on its host, operators, and connections that break."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from raftlog.consensus.configuration import Configuration
from raftlog.exceptions import ConfigurationChangeRefused, NotLeader
from raftlog.runtime.consensus_state import run
from raftlog.runtime.proposals import Done
from raftlog.runtime.reads import ReadDone
from raftlog.runtime.turns import TurnDone
from raftlog.testing.safety import Violation
from raftlog.testing.simulated_state import SimulatedState

if TYPE_CHECKING:
    from raftlog.testing.simulation import Simulation


class NodeCalls:
    """A part of SimulatedNode. Each is carried out at once, or when the process is free."""

    simulation: Simulation
    node_id: str
    is_up: bool
    state: SimulatedState

    def local_now(self) -> float:
        raise NotImplementedError

    def _when_free(self, action: Callable[[], None]) -> None:
        raise NotImplementedError

    # Callers

    def propose(self, payload: bytes, timeout: float, done: Done) -> None:
        """A caller on this host; `timeout` in seconds of this node's clock."""
        self._when_free(lambda: self.state.propose([([payload], self.local_now() + timeout, done)]))

    def read(self, timeout: float, done: ReadDone) -> None:
        self._when_free(lambda: self.state.read(self.local_now() + timeout, done))

    def take_turn(self, key: bytes, is_fence: bool, timeout: float, done: TurnDone) -> None:
        self._when_free(lambda: self.state.take_turn(key, is_fence, self.local_now() + timeout, done))

    def renew_turn(self, key: bytes, is_fence: bool) -> None:
        self._when_free(lambda: self.state.renew_turn(key, is_fence))

    def release_turn(self, key: bytes) -> None:
        self._when_free(lambda: self.state.release_turn(key))

    def connection_lost(self, peer: str) -> None:
        """As PeerThread._on_close and Service.peer_disconnected."""
        if self.is_up:
            self._when_free(lambda: self._connection_lost(peer))

    def _connection_lost(self, peer: str) -> None:
        state = self.state
        with state.monitor:
            now = state.monitor.monotonic()
            state.raft.peer_reset(peer)
            state.proposals.peer_lost(peer, now)
            if state.raft.leader_id == peer:
                state.raft.suspect_leader(peer, now)
            afterwards = state.settle(now, wake=(peer,))
        run(afterwards)

    def transfer_leadership(self, to: str) -> None:
        self._when_free(lambda: self._transfer_leadership(to))

    def _transfer_leadership(self, to: str) -> None:
        state = self.state
        with state.monitor:
            now = state.monitor.monotonic()
            with contextlib.suppress(NotLeader, ValueError):  # told to whoever asked
                state.raft.transfer_leadership(to, now)
            afterwards = state.settle(now, wake=state.peer_work)
        run(afterwards)

    # Operators

    def change_members(self, target: Configuration, based_on: int, done: Callable[[str], None]) -> None:
        """Ask this node for a change, made from the configuration at `based_on`. done("") or done(why it was refused).

        Where a disk that the target needs was lost meanwhile, nobody asks.
        """
        self._when_free(lambda: self._ask(lambda: self._change_members(target, based_on), done, target))

    def _change_members(self, target: Configuration, based_on: int) -> None:
        before = self.state.raft.configuration_index
        self.state.change_configuration(target, based_on)
        if based_on != before:
            raise Violation(
                "compare and set",
                f"{self.node_id} takes a change made from the configuration at {based_on}, {before} is in force",
            )

    def abandon_change(self, done: Callable[[str], None]) -> None:
        self._when_free(lambda: self._ask(self.state.abandon_change, done))

    def _ask(
        self, request: Callable[[], None], done: Callable[[str], None], target: Configuration | None = None
    ) -> None:
        if target is not None and not self.simulation.tolerates(target):
            return
        try:
            request()
        except (ConfigurationChangeRefused, NotLeader) as error:
            done(str(error) or type(error).__name__)
        else:
            done("")
