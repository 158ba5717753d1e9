"""Transactions and commands on real SQLite databases, through the real backend, capture, certification and apply.

What must hold, besides what `testing.safety` checks:

1. Databases that stand at the same index are equal, in all that is in them.
2. Every node gives an entry the same verdict, and it is the one that the entry gets when the log is applied one by one.
3. Run one after another in the order of the log, on a plain SQLite database, the applied transactions see and change
   what they saw and changed: nothing that any of them did is lost, and nothing else is there.
4. Each transaction saw one state: that of the entry it is based on.
5. A transaction is refused only if an entry that it could not know of had an effect.
6. What was acknowledged is in the log exactly once; what was refused had no effect. Under one idempotency key one entry
   has an effect, whoever asks for it, and all who are answered are told its result.
7. No automatic key is used twice.
8. Nobody meets "database is locked", or any error but those that the documentation names.

1 and 2 are checked whenever a node has applied something, the others at the end (`testing.sql.serial`).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raftlog.consensus.entries import CLIENT_KINDS, KEY, EntryBatch
from raftlog.replication.run import Entry
from raftlog.runtime.ports import Outcome
from raftlog.testing.history import History
from raftlog.testing.safety import Violation
from raftlog.testing.sql.attempt import Attempt, Ending
from raftlog.testing.sql.client import SqlClient
from raftlog.testing.sql.host import Host
from raftlog.testing.sql.keys import draw_keys
from raftlog.testing.sql.log import HostLog
from raftlog.testing.sql.machine import SqlMachine, difference, in_words
from raftlog.testing.sql.serial import check_serial

if TYPE_CHECKING:
    from raftlog.testing.simulated_node import SimulatedNode
    from raftlog.testing.simulation import Simulation
    from raftlog.testing.workload import Client, Machine

MEMORY = "/dev/shm"


@dataclass(slots=True)
class SqlProfile:
    """Drawn once a run: shares of what clients do."""

    clients_per_host: int
    command_share: float
    schema_share: float
    # Of programs that may take the cluster's turn before they write.
    turn_share: float
    # How often a program begins with the death of all applications of its host.
    application_kills: float
    checkpoint_every: int  # batches


def draw_sql_profile(rng: random.Random) -> SqlProfile:
    return SqlProfile(
        clients_per_host=rng.choice((1, 2, 2, 3)),
        command_share=rng.choice((0.1, 0.25, 0.5)),
        schema_share=rng.choice((0.0, 0.05, 0.2)),
        turn_share=rng.choice((0.0, 0.1, 0.6)),
        application_kills=rng.choice((0.0, 0.01, 0.05)),
        checkpoint_every=rng.choice((4, 16, 64)),
    )


class SqlWorkload:
    """Implements testing.workload.Workload."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.history = History()
        self.profile = draw_sql_profile(simulation.rng("sql"))
        self.keys = draw_keys(simulation.rng("idempotency keys"))
        self.attempts: list[Attempt] = []
        # Key of a payload -> whose it is
        self.proposed: dict[bytes, Attempt] = {}
        self.entries: dict[int, Entry] = {}
        # Index of an entry -> how it ended, as the first node to apply it said
        self.outcomes: dict[int, Outcome] = {}
        self._states: dict[tuple[int, str], tuple[str, Any]] = {}
        self._hosts: list[Host] = []
        self._host_of: dict[str, Host] = {}
        self._machines: dict[str, SqlMachine] = {}
        where = MEMORY if os.path.isdir(MEMORY) else None
        self._folder = Path(tempfile.mkdtemp(prefix="raftlog-simulation-", dir=where))

    def machine(self, node: SimulatedNode) -> Machine:
        number = len(self._hosts)
        old = self._host_of.get(node.node_id)
        if old is not None:
            old.close()
        alias = f"simulated_{number}_{node.node_id}"
        host = Host(self, alias, self._folder / f"{number}.sqlite3", HostLog())
        self._hosts.append(host)
        self._host_of[node.node_id] = host
        machine = self._machines[node.node_id] = SqlMachine(self, host, self.simulation.rng(f"machine {number}"))
        return machine

    def clients(self) -> list[Client]:
        clients: list[Client] = []
        for node in self.simulation.nodes_in_order:
            host = self._host_of[node.node_id]
            for number in range(self.profile.clients_per_host):
                name = f"{node.node_id}-{number}"
                client = SqlClient(self, node, host, name, self.simulation.rng(f"application {name}"))
                host.clients.append(client)
                clients.append(client)
        return clients

    def is_set_up(self, host: Host) -> bool:
        return bool(host.reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'counter'").fetchall())

    def applied(self, batch: EntryBatch, outcomes: list[Outcome]) -> None:
        """A node applied entries. Raises Violation where another said something else of one."""
        remaining = iter(outcomes)
        for index in range(batch.first_index, batch.last_index + 1):
            payload = self.entries[index].payload
            if payload[0] in CLIENT_KINDS:
                outcome = next(remaining)
                known = self.outcomes.setdefault(index, outcome)
                if known != outcome or outcome.key != payload[KEY]:
                    text = f"entry {index}: {in_words(known)}; on another node: {in_words(outcome)}"
                    raise Violation("verdicts agree", text)

    def compare(self, index: int, what: str, who: str, state: dict[str, Any]) -> None:
        """Raises Violation where another database that stood at `index` was different."""
        other, known = self._states.setdefault((index, what), (who, state))
        if known != state:
            raise Violation(
                "databases equal", f"at entry {index}, {what} of {other} and {who}: {difference(known, state)}"
            )

    def operations(self) -> tuple[int, int]:
        return len(self.attempts), sum(attempt.ending is Ending.UNKNOWN for attempt in self.attempts)

    def check_end(self) -> None:
        for node in self.simulation.nodes_in_order:
            if not node.is_wiped:
                self._machines[node.node_id].compare_all()
        check_serial(self)

    def end_state(self) -> tuple[int, dict[str, Any]]:
        """Last index, and all contents there."""
        index = max(index for index, what in self._states if what == "contents")
        return index, self._states[index, "contents"][1]

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder)
            for node_id, host in self._host_of.items():
                stack.callback(host.close)
                stack.callback(self._machines[node_id].kill)
