"""Two more databases for an alias, which apply what the log gives them and must stay equal: no Raft, fast."""

from __future__ import annotations

import sqlite3

from django.db import connections
from django.db.backends.sqlite3._functions import register

from raftlog.backends.log import InlineLog, use_log
from raftlog.replication.transactions import TransactionApplier
from raftlog.replication.write_set import decode_write_set
from suite_child import environment
from suite_child.contents import SqliteContents, different

COUNT = 2


class InlineCopies:
    """The replicas of one alias, over an inline log."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.log = InlineLog()
        self.log.observers.append(self.take)
        self.appliers: list[TransactionApplier] = []
        self.contents: list[SqliteContents] = []
        for _ in range(COUNT if environment.VENDOR == "sqlite3" else 0):  # PostgreSQL: only counted
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            register(connection)
            applier = TransactionApplier(connection)
            applier.marks.make_tables()
            self.appliers.append(applier)
            self.contents.append(SqliteContents(lambda sql, run=connection.execute: run(sql).fetchall()))
        self.entries = self.rows = self.comparisons = 0
        self.unequal: list[str] = []
        self._mine = SqliteContents(self._read)
        use_log(alias, self.log)

    def take(self, index, body, verdict) -> None:
        self.entries += 1
        self.rows += decode_write_set(body).row_count
        for number, applier in enumerate(self.appliers):
            found = applier.apply_alone(index, body)
            if found != verdict:
                self.unequal.append(f"entry {index}: verdict {verdict} here, {found} on replica {number}")

    def compare(self, moment: str) -> None:
        raw = connections[self.alias].connection
        if raw is None or not self.contents or raw.in_transaction:
            return
        with raw.control._internal():
            mine = self._mine()
        self.comparisons += 1
        for number, contents in enumerate(self.contents):
            if names := different(mine, contents()):
                self.unequal.append(f"{moment}: replica {number} of {self.alias} differs in {names}")

    def close(self) -> None:
        """Nothing to stop."""

    def _read(self, sql: str) -> list:
        return connections[self.alias].connection.cursor(sqlite3.Cursor).execute(sql).fetchall()
