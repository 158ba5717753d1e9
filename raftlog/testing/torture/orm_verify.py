"""What is checked of transactions when all is healed: markers, money, jobs, names, and that a serial order exists."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raftlog.replication.certify import LastChanged
from raftlog.replication.fingerprint import scan
from raftlog.replication.shapes import Schema
from raftlog.testing import serializability
from raftlog.testing.serializability import Read, Status, Step, Transaction, Write
from raftlog.testing.torture import records
from raftlog.testing.torture.orm_client import CONFLICT
from raftlog.testing.torture.orm_rows import ACCOUNTS, BALANCE, JOINT_BALANCE, PLACES, version_of
from raftlog.testing.torture.records import Call
from raftlog.testing.torture.verify import Ledger, ledger_of, open_database

SHOWN = 10  # examples of one kind of mistake
# Seconds in which every call must have ended: waits for both turns, the time limit of a proposal, a question how
# it ended, and while all of these went on its host's node or a holder of its turn was stopped.
LONGEST_CALL = 60.0


@dataclass
class Judgement:
    """Of one run's transactions. Empty `problems`: all promises were kept."""

    ledger: Ledger
    serializable: serializability.Verdict
    conflicts: int
    longest: float  # seconds, of one call
    problems: list[str] = field(default_factory=list)


def judge(calls: Sequence[Call], database: Path, at: float) -> Judgement:
    """`database`: that of any node, when all stand still; `at`: a moment after all calls."""
    with open_database(database) as connection:
        final = Final(connection)
    in_ledger = [call for call in calls if call.called.action not in ("hit", "register")]
    ledger = ledger_of(in_ledger, final.markers(), "transactions")
    transactions = history(calls, final)
    transactions.append(Transaction("the end", final.reads(transactions), began_at=at, ended_at=at))
    verdict = serializability.check(transactions)
    problems = [*ledger.problems(), *verdict.problems()]
    for look in (_money, _jobs, _names, _hits, _too_long):
        problems += look(calls, final)
    ended = [call.ended.at - call.called.at for call in calls if call.ended is not None]
    conflicts = sum(1 for call in calls if call.ended is not None and call.ended.output == CONFLICT)
    return Judgement(ledger, verdict, conflicts, max(ended, default=0.0), problems)


class Final:
    """The rows that are there at the end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        def rows(sql: str) -> list[Any]:
            return connection.execute(sql).fetchall()

        self.marker_rows = rows("SELECT reference, id FROM torture_marker ORDER BY id")
        self.accounts = rows("SELECT id, reference, balance FROM torture_account")
        self.joints = rows("SELECT id, reference, balance, pair FROM torture_joint")
        self.bookings = rows("SELECT slot, reference FROM torture_booking")
        self.names: dict[str, str] = dict(rows("SELECT name, reference FROM torture_username"))
        self.jobs: dict[int, str] = dict(rows("SELECT id, reference FROM torture_job"))
        self.hits: int = rows("SELECT count FROM torture_hit")[0][0]

    def markers(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for reference, number in self.marker_rows:
            found[reference].append(number)
        return found

    def reads(self, transactions: Iterable[Transaction]) -> list[Step]:
        """As a last transaction, which lists everything."""
        steps: list[Step] = []
        for pk, reference, balance in self.accounts:
            steps.append(Read(f"account {pk}", version_of(reference, balance, BALANCE)))
        for pk, reference, balance, _ in self.joints:
            steps.append(Read(f"joint {pk}", version_of(reference, balance, JOINT_BALANCE)))
        bookings = {f"booking {reference}": reference for _, reference in self.bookings}
        names = {f"name {name}": reference for name, reference in self.names.items()}
        written = {step.key for transaction in transactions for step in transaction.steps if isinstance(step, Write)}
        for found, kind in ((bookings, "booking "), (names, "name ")):
            keys = found.keys() | {key for key in written if key.startswith(kind)}
            steps += [Read(key, found.get(key)) for key in sorted(keys)]
        return steps


# The history


def history(calls: Sequence[Call], final: Final) -> list[Transaction]:
    """All calls as transactions; one that nobody has heard of has taken effect if its marker is there."""
    committed = final.markers().keys() | set(final.names.values())
    bookings: dict[str, list[str]] = defaultdict(list)
    for call in calls:
        if call.called.action == "book" and (slot := _booked(call)):
            bookings[slot].append(call.called.reference)
    found = []
    for number, call in enumerate(calls):
        steps = _steps(call, bookings)
        if steps:
            found.append(_transaction(number, call, steps, committed))
    return found


def _transaction(number: int, call: Call, steps: list[Step], committed: Iterable[str]) -> Transaction:
    called = call.called
    writes = any(isinstance(step, Write) for step in steps)
    is_committed = called.reference in committed or call.end == records.APPLIED
    status = Status.COMMITTED if is_committed else Status.ABORTED
    name = f"{called.action} {called.reference or number}"
    ended_at = call.ended.at if call.ended is not None and call.end == records.APPLIED else float("inf")
    # Reads alone go by the database of their host, which may be behind the others, but never goes back.
    return Transaction(name, steps, status, called.at, ended_at, strict=bool(writes), place=called.key)


def _booked(call: Call) -> str:
    """The slot of a booking that was made, "" where there was no place."""
    is_made = any(step[0] == "w" for step in call.steps)
    return next((step[1] for step in call.steps if step[0] == "s"), "") if is_made else ""


def _steps(call: Call, bookings: Mapping[str, list[str]]) -> list[Step]:
    steps: list[Step] = []
    for kind, key, value in call.steps:
        if kind == "w":
            steps.append(Write(key, value))
        elif kind == "r":
            steps.append(Read(key, value))
        else:  # a slot was listed: these bookings are there, and no others
            there = set(value)
            listed = sorted(there.union(bookings[key])) if key in bookings else sorted(there)
            steps += [Read(f"booking {reference}", reference if reference in there else None) for reference in listed]
    if call.called.action == "register" and call.end == records.APPLIED and call.ended is not None:
        name, reference = call.ended.output or [None, call.called.reference]
        if reference != call.called.reference:
            return [Read(f"name {name}", reference)]
    return steps


# What must hold of the rows themselves


def _money(calls: Sequence[Call], final: Final) -> list[str]:
    found = []
    total = sum(balance for _, _, balance in final.accounts)
    if (len(final.accounts), total) != (ACCOUNTS, ACCOUNTS * BALANCE):
        found.append(
            f"at the end {len(final.accounts)} accounts hold {total}, it should be {ACCOUNTS * BALANCE} in {ACCOUNTS}"
        )
    if below := [f"account {pk}: {balance}" for pk, _, balance in final.accounts if balance < 0]:
        found.append(f"at the end accounts are below zero: {', '.join(below)}")
    pairs: dict[int, int] = defaultdict(int)
    for _, _, balance, pair in final.joints:
        pairs[pair] += balance
    if poor := [f"pair {pair}: {balance}" for pair, balance in pairs.items() if balance < 0]:
        found.append(f"at the end pairs of joint accounts are below zero: {', '.join(poor)}")
    slots: dict[str, int] = defaultdict(int)
    for slot, _ in final.bookings:
        slots[slot] += 1
    if full := [f"{slot}: {count}" for slot, count in slots.items() if count > PLACES]:
        found.append(f"more than {PLACES} bookings: {', '.join(full[:SHOWN])}")
    return found


def _jobs(calls: Sequence[Call], final: Final) -> list[str]:
    """All that were made and not taken are there, and nothing else."""
    committed = final.markers()
    made: dict[int, str] = {}
    taken: set[int] = set()
    for call in calls:
        if call.called.reference in committed and call.called.action in ("make_jobs", "take_job"):
            numbers = [int(key.removeprefix("job ")) for kind, key, _ in call.steps if kind == "w"]
            if call.called.action == "take_job":
                taken.update(numbers)
            else:
                made.update(dict.fromkeys(numbers, call.called.reference))
    expected = {number: reference for number, reference in made.items() if number not in taken}
    lost, unwanted = expected.items() - final.jobs.items(), final.jobs.items() - expected.items()
    found = []
    if lost:
        found.append(f"{len(lost)} jobs were made, never taken, and are gone: {sorted(lost)[:SHOWN]}")
    if unwanted:
        found.append(f"{len(unwanted)} jobs were taken or never made, and are there: {sorted(unwanted)[:SHOWN]}")
    return found


def _names(calls: Sequence[Call], final: Final) -> list[str]:
    """Whoever was told whose a name is was told right."""
    wrong = []
    nothing = {call.called.reference for call in calls if call.end == records.NOTHING}
    for call in calls:
        if call.called.action == "register" and call.ended is not None and call.ended.output not in (None, CONFLICT):
            name, reference = call.ended.output
            if final.names.get(name) != reference:
                wrong.append(f"{name} is said to be {reference}'s, and is {final.names.get(name)}'s")
    wrong += [
        f"{name} is {reference}'s, who was told that nothing was done"
        for name, reference in final.names.items()
        if reference in nothing
    ]
    return [f"{len(wrong)} names: {'; '.join(wrong[:SHOWN])}"] if wrong else []


def _hits(calls: Sequence[Call], final: Final) -> list[str]:
    """Every acknowledged one counts once; those whose outcome is unknown count once or not at all."""
    ends = [call.end for call in calls if call.called.action == "hit"]
    least = ends.count(records.APPLIED)
    most = least + ends.count(records.UNANSWERED)
    if least <= final.hits <= most:
        return []
    return [f"the counter of hits is at {final.hits}; {least} were acknowledged, {most - least} are of unknown outcome"]


def _too_long(calls: Sequence[Call], final: Final) -> list[str]:
    return [
        f"{call.called.action} {call.called.reference} took {call.ended.at - call.called.at:.1f} s"
        for call in calls
        if call.ended is not None and call.ended.at - call.called.at > LONGEST_CALL
    ]


# Databases


def compare_fingerprints(databases: Mapping[str, Path]) -> list[str]:
    """What the tables hold, from their rows, is alike on all nodes, and what the nodes keep account of."""
    found = []
    scanned = {}
    for name, path in databases.items():
        with open_database(path) as connection:
            scanned[name] = scan(connection, Schema(connection))
            kept = {table: marks.fingerprint for table, marks in LastChanged(connection).tables().items()}
        wrong = sorted(table for table, sum_ in kept.items() if scanned[name].get(table, sum_) != sum_)
        if wrong:
            found.append(f"{name} keeps other fingerprints than its rows have, of {', '.join(wrong)}")
    first, *others = scanned
    for name in others:
        tables = [table for table in scanned[first] if scanned[first][table] != scanned[name].get(table)]
        if tables:
            found.append(f"{first} and {name} differ in their rows of {', '.join(tables)}")
    return found
