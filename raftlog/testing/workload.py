"""What the nodes of a simulated cluster apply and its clients do: the key-value machine, or transactions on SQLite."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftlog.consensus.entries import EntryBatch
from raftlog.runtime.ports import Outcome
from raftlog.testing.clients import SimulatedClient
from raftlog.testing.history import History
from raftlog.testing.kv_machine import KeyValueMachine
from raftlog.testing.linearizability import check
from raftlog.testing.models import KeyValueMap
from raftlog.testing.safety import Violation

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation

MAX_CONFIGURATIONS: Final = 200_000  # of the linearizability check


class Machine(Protocol):
    """The state machine of one simulated node, and the disk under it: it outlives the node's processes."""

    # Told of each entry just before it takes effect: (index, term, payload).
    on_entry: Callable[[int, int, bytes], None]

    @property
    def last_applied(self) -> int: ...

    @property
    def last_applied_term(self) -> int: ...

    def when_free(self, action: Callable[[], None]) -> bool:
        """Whether start() and apply() can be called now; else `action` is called once they can."""
        ...

    def start(self) -> None:
        """The node's process begins."""
        ...

    def apply(self, batch: EntryBatch) -> list[Outcome]: ...

    def kill(self) -> None:
        """The node's process ended; what it had committed is there."""
        ...

    def lose_power(self, rng: random.Random) -> None:
        """The whole host ended; the last transactions may be lost."""
        ...


class Client(Protocol):
    """Works until the simulation is ending, then says `client_finished()`."""

    def start(self) -> None: ...


class Workload(Protocol):
    """One run's."""

    history: History

    def machine(self, node: SimulatedNode) -> Machine:
        """For a node with an empty disk."""
        ...

    def clients(self) -> list[Client]: ...

    def operations(self) -> tuple[int, int]:
        """How many there were so far, and of how many the outcome is unknown."""
        ...

    def check_end(self) -> None:
        """All is healed, every node has caught up. Raises Violation."""
        ...

    def close(self) -> None: ...


class KeyValueWorkload:
    """Clients write and read a few keys; their history has to be linearizable."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.history = History()

    def machine(self, node: SimulatedNode) -> Machine:
        return KeyValueMachine()

    def clients(self) -> list[Client]:
        simulation, profile = self.simulation, self.simulation.profile
        clients: list[Client] = []
        for number in range(profile.clients):
            clients.append(SimulatedClient(simulation, f"c{number}", simulation.rng(f"client {number}")))
        for number in range(profile.readers):
            rng = simulation.rng(f"reader {number}")
            clients.append(SimulatedClient(simulation, f"r{number}", rng, read_share=1.0))
        return clients

    def operations(self) -> tuple[int, int]:
        return len(self.history), sum(operation.is_unknown for operation in self.history)

    def check_end(self) -> None:
        machines: list[Any] = [
            node.machine for node in self.simulation.nodes_in_order if self.simulation.is_member(node)
        ]
        for machine in machines[1:]:
            if machine.values != machines[0].values or machine.sessions != machines[0].sessions:
                raise Violation("machines agree", "after the end, two state machines differ")
        self._read_at_the_end(machines[0].values)
        verdict = check(self.history, KeyValueMap(), MAX_CONFIGURATIONS)
        if verdict.counterexample is not None:
            violation = Violation("linearizability", verdict.counterexample.text())
            violation.html = verdict.counterexample.html()
            raise violation
        if verdict.undecided:
            self.simulation.count("histories undecided")

    def _read_at_the_end(self, values: dict[str, Any]) -> None:
        """What is there when all is over belongs to the history: a lost write shows."""
        for key in sorted({operation.key for operation in self.history}):
            operation = self.history.invoke("end", "get", key=key, at=self.simulation.moment())
            self.history.complete(operation, values.get(key), at=self.simulation.moment())

    def close(self) -> None:
        """Nothing to give back."""


def configure_django() -> None:
    """Django, and all that needs it, is imported only where it is asked for."""
    from raftlog.testing.sql.django_settings import ensure_django

    ensure_django()


def make_workload(name: str, simulation: Simulation) -> Workload:
    if name == "kv":
        return KeyValueWorkload(simulation)
    configure_django()
    from raftlog.testing.sql.workload import SqlWorkload

    return SqlWorkload(simulation)


WORKLOADS: Final = ("kv", "sql")
