"""The state machine of a simulated node: the real one, over the database of the node's host."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from django.db import connections
from django.db.utils import Error as DjangoDatabaseError

from raftlog.consensus.entries import EntryBatch
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.run import entries as entries_of
from raftlog.replication.shapes import NODE_LOCAL_TABLES
from raftlog.runtime.ports import Outcome
from raftlog.testing.sql import commands

if TYPE_CHECKING:
    from raftlog.testing.sql.host import Host
    from raftlog.testing.sql.workload import SqlWorkload

CHECK_ALL: Final = 0.04  # how often everything in the database is compared, not only what is kept about it


class ImpatientStateMachine(DatabaseStateMachine):
    """Nobody makes a simulated database unavailable: that it is means a bug."""

    def _wait_for_database(self, error: DjangoDatabaseError, what: str, delay: float) -> None:
        raise error


class SqlMachine:
    """Implements testing.workload.Machine."""

    def __init__(self, workload: SqlWorkload, host: Host, rng: random.Random) -> None:
        self.on_entry: Callable[[int, int, bytes], None] = lambda index, term, payload: None
        self._workload = workload
        self._host = host
        self._rng = rng
        self._inner: ImpatientStateMachine | None = None
        self._applied_batches = 0

    @property
    def last_applied(self) -> int:
        return self._inner.last_applied if self._inner else 0

    @property
    def last_applied_term(self) -> int:
        return self._inner.position()[2] if self._inner else 0

    def when_free(self, action: Callable[[], None]) -> bool:
        return self._host.turn.when_free(action)

    def start(self) -> None:
        self._inner = ImpatientStateMachine(self._host.alias, commands=commands.REGISTRY)

    def apply(self, batch: EntryBatch) -> list[Outcome]:
        assert self._inner is not None
        for entry in entries_of(batch):
            self.on_entry(entry.index, entry.term, entry.payload)
            self._workload.entries[entry.index] = entry
        commands.database.execute = executor(self._host.alias)
        outcomes = self._inner.apply(batch)
        self._workload.applied(batch, outcomes)
        self._applied_batches += 1
        if self._applied_batches % self._workload.profile.checkpoint_every == 0:
            self._host.checkpoint()
        self._compare()
        return outcomes

    def _compare(self) -> None:
        index, name = self.last_applied, self._host.alias
        self._workload.compare(index, "what certification remembers", name, marks(self._host.reader))
        if self._rng.random() < CHECK_ALL:
            self.compare_all()

    def compare_all(self) -> None:
        self._workload.compare(self.last_applied, "contents", self._host.alias, contents(self._host.reader))

    def kill(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def lose_power(self, rng: random.Random) -> None:
        self.kill()
        self._host.lose_power(rng)


def executor(alias: str) -> Callable[..., list[Any]]:
    def execute(sql: str, *parameters: Any) -> list[Any]:
        with connections[alias].cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    return execute


def contents(connection: sqlite3.Connection) -> dict[str, Any]:
    """Every table, raftlog's and SQLite's too, and the schema itself, comparable between databases.

    But for what each node keeps for itself.
    """
    schema = connection.execute("SELECT type, name, sql FROM main.sqlite_master ORDER BY 1, 2").fetchall()
    found: dict[str, Any] = {"": schema}
    for kind, name, _ in schema:
        if kind == "table" and name not in NODE_LOCAL_TABLES:
            found[name] = rows_of(connection, name)
    return found


def rows_of(connection: sqlite3.Connection, table: str) -> list[str]:
    return sorted(map(repr, connection.execute(f'SELECT * FROM main."{table}"').fetchall()))


def marks(connection: sqlite3.Connection) -> dict[str, Any]:
    """Small and quick to read, and different where the contents are: it has sums over all rows."""
    tables = ("raftlog_positions", "raftlog_tables", "raftlog_appliedindex", "raftlog_clientsession")
    found: dict[str, Any] = {table: rows_of(connection, table) for table in tables}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchall():
        found["sqlite_sequence"] = rows_of(connection, "sqlite_sequence")
    return found


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In words, the first few."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        left, right = one.get(name, []), other.get(name, [])
        if left != right:
            only_left = [row for row in left if row not in right][:3]
            only_right = [row for row in right if row not in left][:3]
            found.append(f"{name or 'schema'}: {only_left} against {only_right}")
    return "; ".join(found[:3])


def in_words(outcome: Outcome) -> str:
    status = ("applied", "failed", "refused", "not proposed", "unknown")[outcome.status]
    return f"{status} at {outcome.index}, {msgspec.msgpack.decode(outcome.result)}"
