"""Each promise that a torture run checks, broken on purpose, is found."""

import json
import re
import sqlite3

import pytest

from raftlog.consensus.entries import COMMAND, EntryBatch, Run
from raftlog.storage import open_storage
from raftlog.testing.torture import verify
from raftlog.testing.torture.records import APPLIED, NOTHING, REFUSED, UNANSWERED, Call, Called, Ended

TABLES = """
    CREATE TABLE raftlog_appliedindex (id integer PRIMARY KEY, applied_index bigint);
    INSERT INTO raftlog_appliedindex VALUES (1, 7);
    CREATE TABLE torture_entry (id integer PRIMARY KEY AUTOINCREMENT, reference text, "index" bigint);
    CREATE TABLE torture_pair (key text PRIMARY KEY, value text);
    CREATE TABLE torture_claim (name text PRIMARY KEY, reference text);
"""


def make_database(path, entries=(), pairs=(), claims=(), applied=7):
    with sqlite3.connect(path) as connection:
        connection.executescript(TABLES)
        connection.execute("UPDATE raftlog_appliedindex SET applied_index = ?", [applied])
        connection.executemany('INSERT INTO torture_entry (reference, "index") VALUES (?, ?)', entries)
        connection.executemany("INSERT INTO torture_pair VALUES (?, ?)", pairs)
        connection.executemany("INSERT INTO torture_claim VALUES (?, ?)", claims)
    connection.close()
    return path


def call(number, action="put", end=APPLIED, *, key="k", argument="v", output=None, index=0, at=None, took=0.5):
    at = float(number) if at is None else at
    called = Called(number, at, 0, action, key, argument, "" if action == "read" else f"c1-{number}")
    return Call("c1", called, None if end is None else Ended(number, at + took, end, output, index, "a"))


def test_a_ledger_that_holds_what_was_acknowledged_once_is_in_order(tmp_path):
    database = make_database(tmp_path / "a.sqlite3", [("c1-1", 4), ("c1-4", 5)])
    calls = [call(1, index=4), call(2, "withdraw", REFUSED), call(3, end=NOTHING), call(4, end=None), call(5, end=None)]
    ledger = verify.check_ledger(calls, database)
    assert ledger.problems() == []
    assert (ledger.acknowledged, ledger.unknown_applied, ledger.unknown_not_applied) == (1, 1, 1)


@pytest.mark.parametrize(
    ("calls", "entries", "problem"),
    [
        ([call(1, index=4)], [], r"1 commands were acknowledged, but not applied: c1-1 \(put k\) at index 4"),
        ([call(1, index=4)], [("c1-1", 4), ("c1-1", 6)], "applied more than once: .* at indices 4, 6"),
        ([call(1, end=None)], [("c1-1", 4), ("c1-1", 6)], "applied more than once"),
        ([call(1, index=4)], [("c1-1", 5)], "index of another entry: .* answered with 4, is at 5"),
        ([call(1, end=NOTHING)], [("c1-1", 5)], r"answered as without effect: .* \(nothing\) at index 5"),
        ([call(1, "withdraw", REFUSED)], [("c1-1", 5)], "answered as without effect"),
        ([call(1, "withdraw", UNANSWERED)], [("c1-1", 5)], "answered as without effect"),
        ([], [("c9-9", 5)], r"c9-9, which nobody proposed, at \[5\]"),
    ],
)
def test_a_lost_doubled_misplaced_or_unwanted_command_is_found(tmp_path, calls, entries, problem):
    ledger = verify.check_ledger(calls, make_database(tmp_path / "a.sqlite3", entries))
    [found] = ledger.problems()
    assert re.search(problem, found)


def test_databases_are_compared_row_by_row(tmp_path):
    same = {name: make_database(tmp_path / name, [("x", 1)], [("k", '"v"')]) for name in "abc"}
    assert verify.compare_databases(same) == ([], 7)
    with sqlite3.connect(same["c"]) as connection:
        connection.execute("UPDATE torture_pair SET value = '\"w\"'")
    connection.close()
    [difference], _ = verify.compare_databases(same)
    assert "table torture_pair differs: 1 rows are only on a" in difference
    assert "'\"w\"'" in difference


def test_counters_of_automatic_keys_count(tmp_path):
    databases = {name: make_database(tmp_path / name, [("x", 1)]) for name in "ab"}
    with sqlite3.connect(databases["b"]) as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 9")
    connection.close()
    differences, _ = verify.compare_databases(databases)
    assert [text.split()[1] for text in differences] == ["sqlite_sequence"]


def test_databases_that_stay_at_different_entries_are_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "STABLE_WITHIN", 0.0)
    databases = {name: make_database(tmp_path / name, applied=number) for number, name in enumerate("ab")}
    [problem], _ = verify.compare_databases(databases)
    assert "different entries after 0 s: {'a': 0, 'b': 1}" in problem


def test_the_history_and_the_final_database_are_one_linearizable_map(tmp_path):
    database = make_database(
        tmp_path / "a.sqlite3", pairs=[("k", json.dumps(["x", "y"]))], claims=[("claim-k", "c1-4")]
    )
    calls = [
        call(1, "append", argument="x", output=["x"]),
        call(2, "append", None, argument="y"),
        call(3, "read", output=["x", "y"]),
        call(4, "claim", key="claim-k", argument=None, output=True),
        call(5, "claim", REFUSED, key="claim-k", argument=None),
        call(6, "note", output=True),
        call(7, "note", REFUSED, key="absent"),
        call(8, "withdraw", REFUSED),
        call(9, "compare_and_set", argument=[["x"], "z"], output=False),
        call(10, "read", None),
    ]
    histories = verify.check_histories(calls, database, at=100.0)
    assert histories.problems() == []
    assert histories.keys == 3


@pytest.mark.parametrize(
    "calls",
    [
        [call(1, output=None), call(2, "read", output="old")],
        [call(1, output=None), call(2, "put", argument="w"), call(3, "get", output="v")],
        [call(1, output=None)],  # the final database does not hold it
        [call(1, "claim", key="n", output=True), call(2, "claim", key="n", output=True)],
        [call(1, "note", output=True)],
    ],
)
def test_a_history_that_is_not_linearizable_is_shown(tmp_path, calls):
    histories = verify.check_histories(calls, make_database(tmp_path / "a.sqlite3"), at=100.0)
    [problem] = histories.problems()
    assert problem.startswith("the history is not linearizable:\nnot linearizable: key")
    assert histories.counterexample.html().startswith("<!doctype html>")


def test_a_search_that_is_given_up_is_no_proof(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "MAX_CONFIGURATIONS", 0)
    calls = [call(1, "append", argument="x", output=["x"]), call(2, "append", argument="y", output=["x", "y"])]
    database = make_database(tmp_path / "a.sqlite3", pairs=[("k", json.dumps(["x", "y"]))])
    [problem] = verify.check_histories(calls, database, at=100.0).problems()
    assert "not decided for 1 keys" in problem


def make_log(folder, node_id, payloads, term=1):
    storage = open_storage(folder, node_id=node_id, new_incarnation="0" * 32, segment_bytes=1 << 16)
    for index, payload in enumerate(payloads, 1):
        storage.log.append(EntryBatch(index, [Run(1, term, 0)], [payload]))
    storage.log.sync()
    storage.close()
    return folder


def test_logs_must_hold_the_same_entries_of_the_same_terms(tmp_path):
    entry = [bytes([COMMAND]) + bytes([number]) * 40 for number in range(5)]
    a = make_log(tmp_path / "a", "a", entry)
    equal = make_log(tmp_path / "b", "b", [*entry, b"\0"])
    assert verify.compare_logs({"a": a, "b": equal}, 5) == ([], 5)
    other = make_log(tmp_path / "c", "c", [*entry[:3], entry[0], entry[4]])
    assert verify.compare_logs({"a": a, "c": other}, 5)[0] == ["entry 4 of the log differs between a and c"]
    term = make_log(tmp_path / "d", "d", entry, term=2)
    assert verify.compare_logs({"a": a, "d": term}, 5)[0] == ["entry 1 of the log differs between a and d"]
    short = make_log(tmp_path / "e", "e", entry[:4])
    [problem], compared = verify.compare_logs({"a": a, "e": short}, 5)
    assert (problem, compared) == ("the log of e ends at entry 4, though it has applied 5", 4)
    (a / "metadata").write_bytes(b"nonsense")
    assert "the log of a cannot be read: LogDamaged" in verify.compare_logs({"a": a, "b": equal}, 5)[0][0]
