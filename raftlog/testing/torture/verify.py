"""What is checked when all is healed: the ledger, the databases against each other, the logs, the histories."""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from raftlog.exceptions import StorageError
from raftlog.replication.shapes import NODE_LOCAL_TABLES
from raftlog.runtime import clock
from raftlog.storage import open_storage
from raftlog.testing.history import Operation
from raftlog.testing.linearizability import Counterexample, check
from raftlog.testing.models import KeyValueMap
from raftlog.testing.torture import records
from raftlog.testing.torture.records import Call, frozen, operations

SHOWN: Final = 10  # examples of one kind of mistake
STABLE_WITHIN: Final = 60.0  # seconds
MAX_CONFIGURATIONS: Final = 500_000  # of the search, for each key


class TortureMap(KeyValueMap):
    """The map of the torture site; `exists() -> bool` is what its notes ask by their foreign key."""

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        if operation.action == "exists":
            return operation.is_unknown or operation.output == (state is not None), state
        return super().step(state, operation)

    def is_read(self, operation: Operation) -> bool:
        return operation.action in ("get", "exists")


@dataclass
class Ledger:
    """What of the commands is in the ledger. The lists hold texts that name the commands."""

    what: str = "commands"
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    # Had no effect, as its caller was told, and is there all the same.
    unwanted: list[str] = field(default_factory=list)
    # Outcome unknown to the caller: applied, or not.
    unknown_applied: int = 0
    unknown_not_applied: int = 0

    def problems(self) -> list[str]:
        found = []
        for title, examples in (
            ("acknowledged, but not applied", self.lost),
            ("applied more than once", self.doubled),
            ("acknowledged with the index of another entry", self.misplaced),
            ("applied, though answered as without effect", self.unwanted),
        ):
            if examples:
                shown = "; ".join(examples[:SHOWN])
                found.append(f"{len(examples)} {self.what} were {title}: {shown}")
        return found


def check_ledger(calls: Iterable[Call], database: Path) -> Ledger:
    """Every command against what the database says happened."""
    entries: dict[str, list[int]] = defaultdict(list)
    with open_database(database) as connection:
        for reference, index in connection.execute('SELECT reference, "index" FROM torture_entry ORDER BY id'):
            entries[reference].append(index)
    return ledger_of(calls, entries)


def ledger_of(calls: Iterable[Call], entries: dict[str, list[int]], what: str = "commands") -> Ledger:
    """`entries`: where each reference is in the ledger; what is left of it nobody proposed."""
    ledger = Ledger(what)
    for call in calls:
        if call.called.reference:
            _check_call(ledger, call, entries.pop(call.called.reference, []))
    ledger.unwanted.extend(f"{reference}, which nobody proposed, at {at}" for reference, at in entries.items())
    return ledger


def _check_call(ledger: Ledger, call: Call, at: list[int]) -> None:
    called, end = call.called, call.end
    name = f"{called.reference} ({called.action} {called.key})"
    if len(at) > 1:
        ledger.doubled.append(f"{name} at indices {', '.join(map(str, at))}")
    if end == records.APPLIED and call.ended is not None:
        ledger.acknowledged += 1
        if not at:
            ledger.lost.append(f"{name} at index {call.ended.index}")
        elif call.ended.index and call.ended.index not in at:
            ledger.misplaced.append(f"{name}: answered with {call.ended.index}, is at {at[0]}")
    elif end == records.UNANSWERED:
        if at and called.action == "withdraw":
            ledger.unwanted.append(f"{name} at index {at[0]}")
        elif at:
            ledger.unknown_applied += 1
        else:
            ledger.unknown_not_applied += 1
    elif at:
        ledger.unwanted.append(f"{name} ({end}) at index {at[0]}")


# Databases


def compare_databases(databases: Mapping[str, Path]) -> tuple[list[str], int]:
    """(What differs, the applied index that all stand at). Waits until all stand at the same one."""
    deadline = clock.monotonic() + STABLE_WITHIN
    while True:
        dumps = {name: _dump(path) for name, path in databases.items()}
        applied = {name: index for name, (index, _) in dumps.items()}
        if len(set(applied.values())) == 1:
            break
        if clock.monotonic() >= deadline:
            return [f"the databases stand at different entries after {STABLE_WITHIN:g} s: {applied}"], 0
        clock.sleep(0.5)
    names = list(dumps)
    first = dumps[names[0]][1]
    found = []
    for name in names[1:]:
        tables = dumps[name][1]
        for table in sorted(first.keys() | tables.keys()):
            if first.get(table) != tables.get(table):
                found.append(_difference(table, names[0], databases[names[0]], name, databases[name]))
    return found, applied[names[0]]


def _dump(path: Path) -> tuple[int, dict[str, str]]:
    """(applied index, a hash of each table's rows)."""
    with open_database(path) as connection:
        connection.execute("BEGIN")
        applied = connection.execute("SELECT applied_index FROM raftlog_appliedindex").fetchone()
        hashes = {}
        for table in _tables(connection):
            digest = hashlib.blake2b(digest_size=16)
            for row in connection.execute(_all_rows(connection, table)):
                digest.update(repr(row).encode())
            hashes[table] = digest.hexdigest()
        connection.execute("COMMIT")
    return (applied[0] if applied else 0), hashes


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Those that are the same on every node. sqlite_sequence, the counters of automatic keys, is one of them."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%'")
    return sorted(name for (name,) in rows if name not in NODE_LOCAL_TABLES)


def _all_rows(connection: sqlite3.Connection, table: str) -> str:
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    return f'SELECT * FROM "{table}" ORDER BY {", ".join(f"{chr(34)}{column}{chr(34)}" for column in columns)}'


def _difference(table: str, first: str, first_path: Path, other: str, other_path: Path) -> str:
    rows = []
    for path in (first_path, other_path):
        with open_database(path) as connection:
            exists = table in _tables(connection)
            rows.append(set(connection.execute(_all_rows(connection, table))) if exists else set())
    only_first, only_other = (sorted(map(repr, a - b)) for a, b in (rows, reversed(rows)))
    return (
        f"table {table} differs: {len(only_first)} rows are only on {first} ({'; '.join(only_first[:SHOWN])}), "
        f"{len(only_other)} only on {other} ({'; '.join(only_other[:SHOWN])})"
    )


class open_database:
    """A connection that is closed at the end of the block; rw, because reading WAL files may need to make -shm."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=30)

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()


# Logs


def compare_logs(folders: Mapping[str, Path], last_index: int) -> tuple[list[str], int]:
    """(What differs, entries compared): term and payload of every entry up to `last_index`, after the nodes' end."""
    found: list[str] = []
    hashes: dict[str, list[bytes]] = {}
    for name, folder in folders.items():
        try:
            hashes[name] = _entry_hashes(name, folder, last_index)
        except StorageError as error:
            found.append(f"the log of {name} cannot be read: {type(error).__name__}: {error}")
    for name, entries in hashes.items():
        if len(entries) < last_index:
            found.append(f"the log of {name} ends at entry {len(entries)}, though it has applied {last_index}")
    names = list(hashes)
    for name in names[1:]:
        first, other = hashes[names[0]], hashes[name]
        for position, (one, another) in enumerate(zip(first, other, strict=False)):
            if one != another:
                found.append(f"entry {position + 1} of the log differs between {names[0]} and {name}")
                break
    return found, min(map(len, hashes.values()), default=0)


def _entry_hashes(name: str, folder: Path, last_index: int) -> list[bytes]:
    storage = open_storage(folder, node_id=name)
    try:
        log, entries, index = storage.log, [], storage.log.first_index
        last_index = min(last_index, log.last_index)
        while index <= last_index:
            batch = log.read(index, last_index, 4 << 20)
            terms = itertools.chain.from_iterable(itertools.repeat(run.term, run.count) for run in batch.runs)
            for term, payload in zip(terms, batch.payloads, strict=True):
                entries.append(hashlib.blake2b(payload, digest_size=8, salt=term.to_bytes(8, "big")).digest())
            index = batch.last_index + 1
        return entries
    finally:
        storage.close()


# Histories


@dataclass
class Histories:
    operations: int = 0
    keys: int = 0
    configurations: int = 0
    undecided: list[str] = field(default_factory=list)
    counterexample: Counterexample | None = None

    def problems(self) -> list[str]:
        found = []
        if self.counterexample is not None:
            found.append(f"the history is not linearizable:\n{self.counterexample.text()}")
        if self.undecided:
            keys = ", ".join(self.undecided[:SHOWN])
            found.append(
                f"linearizability was not decided for {len(self.undecided)} keys (the search was given up): {keys}"
            )
        return found


def check_histories(calls: Iterable[Call], database: Path, at: float) -> Histories:
    """All calls, and a read of every key from the final database, made `at` a moment after all of them."""
    with open_database(database) as connection:
        final = {
            key: frozen(json.loads(value)) for key, value in connection.execute("SELECT key, value FROM torture_pair")
        }
        final.update(connection.execute("SELECT name, reference FROM torture_claim"))
    history = list(operations(calls))
    keys = {operation.key for operation in history} | final.keys()
    history.extend(Operation("final", "get", None, key, at, at, final.get(key)) for key in keys)
    verdict = check(history, TortureMap(), MAX_CONFIGURATIONS)
    return Histories(
        verdict.operations,
        verdict.partitions,
        verdict.configurations,
        [str(key) for key in verdict.undecided],
        verdict.counterexample,
    )
