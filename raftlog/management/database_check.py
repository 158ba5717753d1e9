"""The vendor's own check of the database: `raft verify --database`."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import DatabaseError, connections

from raftlog.management.output import Output

MAX_PROBLEMS: Final = 20


@dataclass(slots=True)
class CheckedDatabase:
    """`words` says what was checked, `problems` what is wrong, a sentence each."""

    vendor: str
    words: str = ""
    problems: list[str] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        return {"vendor": self.vendor, "checked": self.words, "problems": self.problems}


def check_database(alias: str, output: Output) -> CheckedDatabase:
    vendor = connections[alias].vendor
    checked = CheckedDatabase(vendor)
    output.line(f"checking database {alias} ({vendor}) …")
    try:
        if vendor == "sqlite":
            _check_sqlite(os.fspath(connections[alias].settings_dict["NAME"]), checked)
        elif vendor == "postgresql":
            _check_postgresql(alias, checked)
        else:
            checked.problems.append(f"there is no check for {vendor}")
    except (sqlite3.Error, DatabaseError) as error:
        checked.problems.append(f"it cannot be read: {error}")
    return checked


def _check_sqlite(path: str, checked: CheckedDatabase) -> None:
    """By a connection of its own, which only reads; writers go on."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})").fetchall()
        checked.problems += [f"integrity_check: {text}" for (text,) in rows if text != "ok"]
        for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(MAX_PROBLEMS):
            checked.problems.append(
                f"foreign_key_check: row {row_id} of {table} has no row of {parent} that it refers to"
            )
    checked.words = "integrity_check and foreign_key_check are ok"


def _check_postgresql(alias: str, checked: CheckedDatabase) -> None:
    """Failures of data checksums that the server has counted, and every B-tree index by amcheck where it is there."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database()")
        (failures,) = cursor.fetchone()
        if failures:
            checked.problems.append(f"the server counted {failures} blocks with a wrong checksum")
        cursor.execute("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")
        if cursor.fetchone() is None:
            checked.words = "no checksum failures; indexes were not checked (CREATE EXTENSION amcheck lets them be)"
            return
        cursor.execute(
            "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE a.amname = 'btree' AND i.indisvalid AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%%'"
        )
        indexes = [name for (name,) in cursor.fetchall()]
        for name in indexes:
            try:
                cursor.execute("SELECT bt_index_check(%s::regclass, true)", [name])
            except DatabaseError as error:
                checked.problems.append(f"index {name}: {error}")
    checked.words = f"no checksum failures; {len(indexes)} indexes agree with their tables"
