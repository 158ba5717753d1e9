"""Each promise that a torture run checks of transactions, broken on purpose, is found."""

import re
import sqlite3

import pytest

from raftlog.replication.transactions import TransactionEntry
from raftlog.testing.torture import orm_verify
from raftlog.testing.torture.orm_rows import ACCOUNTS, BALANCE, JOINT_BALANCE
from raftlog.testing.torture.records import APPLIED, NOTHING, UNANSWERED, Call, Called, Ended
from raftlog.testing.torture_site.mutations import MUTATIONS

TABLES = """
    CREATE TABLE torture_marker (id integer PRIMARY KEY, reference text);
    CREATE TABLE torture_account (id integer PRIMARY KEY, reference text DEFAULT '', balance integer);
    CREATE TABLE torture_joint (id integer PRIMARY KEY, reference text DEFAULT '', balance integer, pair integer);
    CREATE TABLE torture_booking (id integer PRIMARY KEY, slot text, reference text);
    CREATE TABLE torture_username (id integer PRIMARY KEY, name text, reference text);
    CREATE TABLE torture_job (id integer PRIMARY KEY, reference text);
    CREATE TABLE torture_hit (id integer PRIMARY KEY, count integer);
    INSERT INTO torture_hit VALUES (1, 0);
"""


def make_database(path, *statements):
    with sqlite3.connect(path) as connection:
        connection.executescript(TABLES)
        for number in range(1, ACCOUNTS + 1):
            connection.execute("INSERT INTO torture_account (id, balance) VALUES (?, ?)", [number, BALANCE])
        for number in (2, 3):
            connection.execute(
                "INSERT INTO torture_joint (id, balance, pair) VALUES (?, ?, 1)", [number, JOINT_BALANCE]
            )
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


def call(number, action, *steps, end=APPLIED, output=None, at=None, took=0.5):
    """`steps` as "r account 1=c1-1:90" (read), "w …" (written), "s slot=c1-1,c1-2" (listed)."""
    at = float(number) if at is None else at
    called = Called(number, at, 0, action, "a", None, "" if action == "audit" else f"c1-{number}")
    ended = None if end is None else Ended(number, at + took, end, output, node="a")
    return Call("c1", called, ended, [parsed(step) for step in steps])


def parsed(step):
    kind, _, rest = step.partition(" ")
    key, _, value = rest.partition("=")
    return kind, key, [ref for ref in value.split(",") if ref] if kind == "s" else value or None


def marker(*references):
    return [f"INSERT INTO torture_marker (reference) VALUES ('{reference}')" for reference in references]


def account(number, reference, balance):
    return f"UPDATE torture_account SET reference = '{reference}', balance = {balance} WHERE id = {number}"


TRANSFER = ("r account 1=", "w account 1=c1-1:90", "r account 2=", "w account 2=c1-1:110")
TRANSFERRED = [*marker("c1-1"), account(1, "c1-1", 90), account(2, "c1-1", 110)]
BOOKED = "INSERT INTO torture_booking (slot, reference) VALUES ('s', '{}')"
NAMED = "INSERT INTO torture_username (name, reference) VALUES ('n', '{}')"
JOB = "INSERT INTO torture_job (id, reference) VALUES ({}, '{}')"

CLEAN = [
    ([call(1, "transfer", *TRANSFER)], TRANSFERRED),
    ([call(1, "transfer", *TRANSFER, end=None)], TRANSFERRED),
    ([call(1, "transfer", *TRANSFER, end=UNANSWERED)], []),
    ([call(1, "transfer", *TRANSFER, end=NOTHING, output="conflict")], []),
    ([call(1, "transfer", *TRANSFER), call(2, "audit", "r account 1=c1-1:90")], TRANSFERRED),
    (
        [call(1, "book", "s s=", "w booking c1-1=c1-1"), call(2, "book", "s s=c1-1", "w booking c1-2=c1-2")],
        [*marker("c1-1", "c1-2"), BOOKED.format("c1-1"), BOOKED.format("c1-2")],
    ),
    (
        [
            call(1, "register", "r name n=", "w name n=c1-1", output=["n", "c1-1"]),
            call(2, "register", "r name n=", "w name n=c1-2", output=["n", "c1-1"]),
        ],
        [NAMED.format("c1-1")],
    ),
    (
        [
            call(1, "make_jobs", "w job 1=c1-1", "w job 2=c1-1"),
            call(2, "take_job", "r job 1=c1-1", "w job 1=taken by c1-2"),
        ],
        [*marker("c1-1", "c1-2"), JOB.format(2, "c1-1")],
    ),
    ([call(1, "hit"), call(2, "hit", end=None)], ["UPDATE torture_hit SET count = 2"]),
]

BROKEN = [
    ([call(1, "transfer", *TRANSFER)], [], r"1 transactions were acknowledged, but not applied: c1-1 \(transfer a\)"),
    ([call(1, "transfer", *TRANSFER)], [*TRANSFERRED, *marker("c1-1")], "applied more than once"),
    ([call(1, "transfer", *TRANSFER, end=NOTHING)], TRANSFERRED, "answered as without effect"),
    ([], marker("c9-9"), "c9-9, which nobody proposed"),
    ([call(1, "transfer", *TRANSFER)], TRANSFERRED[:2], "12 accounts hold 1190, it should be 1200 in 12"),
    (
        [call(1, "transfer", *TRANSFER)],
        marker("c1-1"),
        r"G-single-realtime: .*(\n.*)*the end read account 1 = its first value, which transfer c1-1 replaced",
    ),
    ([call(1, "transfer", *TRANSFER, end=NOTHING), call(2, "audit", "r account 1=c1-1:90")], [], "G1a: audit 1 read"),
    (
        [call(1, "book", "s s=", "w booking c1-1=c1-1"), call(2, "book", "s s=", "w booking c1-2=c1-2", at=1.2)],
        [*marker("c1-1", "c1-2"), BOOKED.format("c1-1"), BOOKED.format("c1-2")],
        r"G2: .*\n.*book c1-1 read booking c1-2 = its first value, which book c1-2 replaced",
    ),
    (
        [call(1, "draw", "r joint 2=", "r joint 3=", "w joint 2=c1-1:-50")],
        ["UPDATE torture_joint SET balance = -60 WHERE id = 2", *marker("c1-1")],
        "pairs of joint accounts are below zero: pair 1: -10",
    ),
    ([], [BOOKED.format(f"c1-{number}") for number in range(6)], "more than 4 bookings: s: 6"),
    (
        [
            call(1, "register", "r name n=", "w name n=c1-1", output=["n", "c1-1"]),
            call(2, "register", "r name n=", "w name n=c1-2", output=["n", "c1-2"]),
        ],
        [NAMED.format("c1-1")],
        "1 names: n is said to be c1-2's, and is c1-1's",
    ),
    (
        [call(1, "register", "r name n=", "w name n=c1-1", end=NOTHING)],
        [NAMED.format("c1-1")],
        "n is c1-1's, who was told that nothing was done",
    ),
    ([call(1, "make_jobs", "w job 1=c1-1")], marker("c1-1"), "1 jobs were made, never taken, and are gone"),
    (
        [call(1, "make_jobs", "w job 1=c1-1"), call(2, "take_job", "r job 1=c1-1", "w job 1=taken by c1-2")],
        [*marker("c1-1", "c1-2"), JOB.format(1, "c1-1")],
        "1 jobs were taken or never made, and are there",
    ),
    ([call(1, "hit"), call(2, "hit", end=None)], [], "counter of hits is at 0; 1 were acknowledged, 1 are of unknown"),
    ([call(1, "hit")], ["UPDATE torture_hit SET count = 2"], "counter of hits is at 2"),
    ([call(1, "audit", "r account 1=", took=61.0)], [], "audit  took 61.0 s"),
]


@pytest.mark.parametrize(("calls", "statements"), CLEAN)
def test_a_run_that_kept_its_promises_passes(tmp_path, calls, statements):
    judgement = orm_verify.judge(calls, make_database(tmp_path / "a.sqlite3", *statements), at=100.0)
    assert judgement.problems == []
    assert judgement.serializable.transactions >= 1


@pytest.mark.parametrize(("calls", "statements", "problem"), BROKEN)
def test_a_broken_promise_is_told(tmp_path, calls, statements, problem):
    judgement = orm_verify.judge(calls, make_database(tmp_path / "a.sqlite3", *statements), at=100.0)
    assert any(re.search(problem, found) for found in judgement.problems), judgement.problems


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_changes_what_it_says(name, monkeypatch):
    monkeypatch.setattr(TransactionEntry, "certify", TransactionEntry.certify)  # put back afterwards
    monkeypatch.setattr(TransactionEntry, "_old_image", TransactionEntry._old_image)
    before = TransactionEntry.certify
    MUTATIONS[name]()
    assert TransactionEntry.certify is not before
