"""Two more databases for each alias, which apply what the log gives them and must stay equal."""

from __future__ import annotations

import sqlite3

from django.db import connections
from django.db.backends.sqlite3._functions import register

from raftlog.backends.log import InlineLog, use_log
from raftlog.replication.transactions import TransactionApplier
from raftlog.replication.write_set import decode_write_set

COUNT = 2


class Replicas:
    """The replicas of one alias."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.log = InlineLog()
        self.log.observers.append(self.take)
        self.databases: list[sqlite3.Connection] = []
        self.appliers: list[TransactionApplier] = []
        for _ in range(COUNT):
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            register(connection)
            applier = TransactionApplier(connection)
            applier.marks.make_tables()
            self.databases.append(connection)
            self.appliers.append(applier)
        self.entries = self.rows = self.verdicts_against = self.comparisons = 0
        self.unequal: list[str] = []
        use_log(alias, self.log)

    def take(self, index, body, verdict) -> None:
        self.entries += 1
        self.rows += decode_write_set(body).row_count
        self.verdicts_against += verdict.kind != 0
        for number, applier in enumerate(self.appliers):
            found = applier.apply_alone(index, body)
            if found != verdict:
                self.unequal.append(f"entry {index}: verdict {verdict} here, {found} on replica {number}")

    def compare(self, moment: str) -> None:
        raw = connections[self.alias].connection
        if raw is None or raw.in_transaction:
            return
        with raw.control._internal():
            mine = contents(raw)
        self.comparisons += 1
        for number, database in enumerate(self.databases):
            theirs = contents(database)
            if mine != theirs:
                names = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
                self.unequal.append(f"{moment}: replica {number} of {self.alias} differs in {sorted(names)}")


def contents(raw: sqlite3.Connection) -> dict[str, object]:
    """Schema and rows of every table, SQLite's and raftlog's too."""
    cursor = raw.cursor(sqlite3.Cursor)
    schema = cursor.execute("SELECT type, name, sql FROM main.sqlite_master ORDER BY 1, 2").fetchall()
    found: dict[str, object] = {"": schema}
    for kind, name, _ in schema:
        if kind == "table":
            columns = [row[1] for row in cursor.execute(f'PRAGMA main.table_xinfo("{name}")')]
            selected = ", ".join(f'quote("{column}")' for column in columns)
            found[name] = sorted(cursor.execute(f'SELECT {selected} FROM main."{name}"').fetchall())
    return found
