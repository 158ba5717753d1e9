"""Clients of a simulated cluster: propose and read through any node, retry with the same (session, sequence)
on another, and record what they saw."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from raftlog.consensus.entries import COMMAND, OPEN_SESSION, client_payload
from raftlog.runtime.ports import APPLIED, REFUSED, Outcome
from raftlog.testing.history import Operation
from raftlog.testing.kv_machine import command_body, decode_answer
from raftlog.testing.safety import Violation

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation

GIVE_UP_AFTER: Final = (1.0, 8.0)  # virtual seconds, drawn for each operation
MAX_ITEMS: Final = 12  # of an appended-to value; then it is replaced


class SimulatedClient:
    """One operation after another. One that it gives up has an unknown outcome, and ends this client's session."""

    def __init__(
        self, simulation: Simulation, name: str, rng: random.Random, *, read_share: float | None = None
    ) -> None:
        self.simulation = simulation
        self.read_share = simulation.profile.read_share if read_share is None else read_share
        self.name = name
        self.rng = rng
        self.generation = 0
        self.session = b""
        self.session_is_open = False
        self.sequence = 0
        self.node: SimulatedNode = rng.choice(simulation.nodes_in_order)
        self.operation: Operation | None = None
        self.payload = b""
        # Of the operation under way: answers to earlier ones are void.
        self.number = 0
        self.give_up_at = 0.0
        self.last_seen: dict[str, Any] = {}
        self._new_session()

    @property
    def label(self) -> str:
        return f"{self.name}.{self.generation}" if self.generation else self.name

    def start(self) -> None:
        self._think()

    def _new_session(self) -> None:
        self.generation += 1
        self.session = self.rng.randbytes(16)
        self.session_is_open = False
        self.sequence = 0

    def _think(self) -> None:
        self.simulation.after(self.rng.expovariate(1 / self.simulation.profile.think_time), self._begin)

    def _begin(self) -> None:
        if self.simulation.is_ending:
            self.simulation.client_finished()
            return
        rng, simulation = self.rng, self.simulation
        self.number += 1
        if rng.random() < 0.2:
            self._choose_node()
        self.give_up_at = simulation.now + rng.uniform(*GIVE_UP_AFTER)
        if not self.session_is_open and self.read_share < 1:
            self.operation = None
            self.payload = client_payload(OPEN_SESSION, self.session, 0, 0, b"")
        else:
            key = f"k{rng.randrange(simulation.profile.keys)}"
            if rng.random() < self.read_share:
                self.begin_read(key)
                return
            self.begin_command(key, *self._draw_action(key))
        self._attempt()

    def _draw_action(self, key: str) -> tuple[str, Any]:
        rng = self.rng
        token = f"{self.label}:{self.sequence + 1}"
        seen = self.last_seen.get(key)
        if isinstance(seen, tuple) and len(seen) >= MAX_ITEMS:
            return "put", token
        action = rng.choice(("append", "append", "append", "put", "compare_and_set", "delete", "get"))
        if action in ("append", "put"):
            return action, token
        return action, (seen, token) if action == "compare_and_set" else None

    def _choose_node(self) -> None:
        """One that was wiped never answers, once all is healed: it waits to be taken in."""
        if self.rng.random() < 0.8:
            simulation = self.simulation
            nodes = simulation.nodes_in_order
            if simulation.is_ending or len(nodes) > simulation.options.nodes:
                nodes = [node for node in nodes if simulation.is_member(node)] or nodes
            self.node = self.rng.choice(nodes)

    # Commands

    def begin_command(self, key: str, action: str, argument: Any) -> None:
        self.sequence += 1
        largest = self.simulation.profile.largest_padding
        body = command_body(key, action, argument, self.rng.randrange(largest + 1))
        # One at a time: everything below this sequence has been answered.
        self.payload = client_payload(COMMAND, self.session, self.sequence, self.sequence, body)
        self.operation = self.simulation.history.invoke(
            self.label, action, argument, key=key, at=self.simulation.moment()
        )

    def _attempt(self) -> None:
        number, rng, simulation = self.number, self.rng, self.simulation
        if simulation.now > self.give_up_at and not simulation.is_ending:
            self._give_up()
            return
        patience = rng.uniform(0.2, 2.0)
        if self.node.is_up:
            self.node.propose(self.payload, patience, lambda outcomes: self._answered(number, outcomes))
        else:
            patience = rng.uniform(0.02, 0.2)
        simulation.after(patience * 1.2, lambda: self._still_waiting(number))

    def _still_waiting(self, number: int) -> None:
        """No answer in time: the same proposal again, mostly through another node."""
        if number == self.number:
            self._choose_node()
            self._attempt()

    def _answered(self, number: int, outcomes: list[Outcome]) -> None:
        if number != self.number:
            return
        (outcome,) = outcomes
        if outcome.status == REFUSED:
            raise Violation("exactly once", f"{self.label} was told that its session is unknown, which it had opened")
        if outcome.status != APPLIED:
            return  # not proposed, or unknown: asked again when patience is over
        self._finish(decode_answer(outcome.result))

    def _finish(self, answer: Any) -> None:
        self.number += 1
        operation = self.operation
        if operation is None:
            self.session_is_open = True
        else:
            self.simulation.history.complete(operation, answer, at=self.simulation.moment())
            self._remember(operation, answer)
        self._think()

    def _remember(self, operation: Operation, answer: Any) -> None:
        key = operation.key
        if operation.action in ("get", "append", "read"):
            self.last_seen[key] = answer
        elif operation.action == "put":
            self.last_seen[key] = operation.argument
        elif operation.action == "delete":
            self.last_seen[key] = None

    def _give_up(self) -> None:
        self.number += 1
        self.simulation.count("given up")
        self._new_session()
        self._think()

    # Linearizable reads

    def begin_read(self, key: str) -> None:
        self.operation = self.simulation.history.invoke(self.label, "get", key=key, at=self.simulation.moment())
        self._attempt_read()

    def _attempt_read(self) -> None:
        number, rng, simulation = self.number, self.rng, self.simulation
        operation = self.operation
        assert operation is not None
        if simulation.now > self.give_up_at and not simulation.is_ending:
            simulation.history.forget(operation)
            self.number += 1
            self._think()
            return
        node = self.node
        patience = rng.uniform(0.2, 1.0)
        if node.is_up:
            committed = len(simulation.safety.committed)
            node.read(patience, lambda index, reason: self._read_answered(number, node, index, committed))
        simulation.after(patience * 1.2, lambda: self._read_still_waiting(number))

    def _read_still_waiting(self, number: int) -> None:
        if number == self.number:
            self._choose_node()
            self._attempt_read()

    def _read_answered(self, number: int, node: SimulatedNode, index: int, committed: int) -> None:
        if index and index < committed:
            raise Violation(
                "reads are fresh", f"{self.label} may read at {index}; {committed} entries were committed when it asked"
            )
        if number == self.number and index:
            assert self.operation is not None
            machine: Any = node.machine  # a KeyValueMachine
            self._finish(machine.read(self.operation.key))
