"""The databases of all nodes, read as files: held to the ledger, to the bank's rules, and to each other."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from raftlog.replication.shapes import NODE_LOCAL_TABLES

REFERENCES = """
    SELECT reference, count(*)
    FROM (SELECT reference FROM bank_transfer UNION ALL SELECT reference FROM bank_payment) GROUP BY reference
"""


@dataclass
class Comparison:
    """What was found, by node where it matters."""

    lost: set[str] = field(default_factory=set)  # acknowledged, but missing on some node
    doubled: set[str] = field(default_factory=set)  # more than once on some node
    phantom: set[str] = field(default_factory=set)  # on some node, though refused
    broken_rules: list[str] = field(default_factory=list)
    different_tables: set[str] = field(default_factory=set)
    rows: int = 0

    @property
    def databases_equal(self) -> bool:
        return not self.different_tables

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.phantom or self.broken_rules or self.different_tables)

    def problems(self) -> Iterator[str]:
        for name in ("lost", "doubled", "phantom"):
            if found := sorted(getattr(self, name)):
                yield f"{len(found)} {name}: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}"
        yield from self.broken_rules
        if self.different_tables:
            yield f"not equal on all nodes: {', '.join(sorted(self.different_tables))}"


def compare(databases: Mapping[str, Path], acknowledged: Iterable[str], refused: Iterable[str] = ()) -> Comparison:
    """Compare the databases of all nodes (id -> SQLite file)."""
    result = Comparison()
    hashes: dict[str, set[str]] = {}
    must, must_not = set(acknowledged), set(refused)
    for node_id, path in databases.items():
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            counts = dict(database.execute(REFERENCES))
            result.lost |= must - counts.keys()
            result.phantom |= must_not & counts.keys()
            result.doubled |= {reference for reference, count in counts.items() if reference and count > 1}
            result.broken_rules += [f"{node_id}: {problem}" for problem in audit(database)]
            result.rows = max(result.rows, sum(counts.values()))
            for table in tables(database):
                hashes.setdefault(table, set()).add(content_hash(database, table))
            for table in hashes.keys() - set(tables(database)):
                hashes[table].add(f"missing on {node_id}")
    result.different_tables = {table for table, found in hashes.items() if len(found) > 1}
    return result


def audit(database: sqlite3.Connection) -> Iterator[str]:
    """What does not hold of the bank's rows: no balance is negative, and no money is made or lost."""
    moved = """
        WITH moved AS (
            SELECT source_id, target_id, amount FROM bank_transfer
            UNION ALL SELECT source_id, target_id, amount FROM bank_payment
        )
        SELECT name, balance, paid_in
            + (SELECT coalesce(sum(amount), 0) FROM moved WHERE target_id = account.id)
            - (SELECT coalesce(sum(amount), 0) FROM moved WHERE source_id = account.id)
        FROM bank_account AS account
    """
    for name, balance, expected in database.execute(moved):
        if balance < 0:
            yield f"{name} has {balance}"
        if balance != expected:
            yield f"{name} has {balance}, but by its transfers it should have {expected}"


def tables(database: sqlite3.Connection) -> list[str]:
    """All that are the same on every node, raftlog's own included; not SQLite's."""
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return [name for name in names if not name.startswith("sqlite_") and name not in NODE_LOCAL_TABLES]


def content_hash(database: sqlite3.Connection, table: str) -> str:
    """Of all rows and all columns, types included, in an order that depends on nothing but the rows."""
    hasher = hashlib.blake2b(digest_size=16)
    rows = sorted(repr(row) for row in database.execute(f'SELECT * FROM "{table}"'))
    for row in rows:
        hasher.update(row.encode() + b"\n")
    return hasher.hexdigest()
