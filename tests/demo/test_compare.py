"""The demo's comparison finds each way in which a database could differ from what was promised."""

import sqlite3
from contextlib import closing

import pytest

from demo_site.demo.compare import compare

SCHEMA = """
    CREATE TABLE bank_account (id INTEGER PRIMARY KEY, name TEXT, balance INTEGER, paid_in INTEGER);
    CREATE TABLE bank_transfer (number INTEGER PRIMARY KEY, reference TEXT, source_id, target_id, amount INTEGER);
    CREATE TABLE bank_payment (reference TEXT PRIMARY KEY, source_id, target_id, amount INTEGER);
    INSERT INTO bank_account VALUES (1, 'ada', 90, 100), (2, 'bob', 10, 0);
    INSERT INTO bank_transfer VALUES (7, 'one', 1, 2, 10);
"""


@pytest.fixture
def databases(tmp_path):
    found = {}
    for node_id in ("a", "b", "c"):
        found[node_id] = tmp_path / f"{node_id}.sqlite3"
        change(found[node_id], SCHEMA)
    return found


def change(path, statements):
    with closing(sqlite3.connect(path)) as database:
        database.executescript(statements)


def test_equal_databases_that_hold_all_that_was_acknowledged_are_ok(databases):
    found = compare(databases, {"one"}, {"refused"})
    assert found.ok
    assert list(found.problems()) == []


def test_what_is_missing_on_one_node_is_lost(databases):
    assert compare(databases, {"one", "two"}).lost == {"two"}
    change(databases["b"], "DELETE FROM bank_transfer; UPDATE bank_account SET balance = paid_in")
    found = compare(databases, {"one"})
    assert found.lost == {"one"}
    assert found.different_tables == {"bank_transfer", "bank_account"}
    assert not found.ok


def test_what_is_there_twice_on_one_node_is_doubled(databases):
    change(databases["c"], "INSERT INTO bank_transfer VALUES (8, 'one', 1, 2, 10)")
    assert compare(databases, {"one"}).doubled == {"one"}


def test_payments_count_as_transfers_do(databases):
    for path in databases.values():
        change(path, "INSERT INTO bank_payment VALUES ('two', 2, 1, 5)")
    found = compare(databases, {"one", "two"}, {"refused"})
    assert "ada has 90, but by its transfers it should have 95" in " ".join(found.broken_rules)
    for path in databases.values():
        change(path, "UPDATE bank_account SET balance = CASE id WHEN 1 THEN 95 ELSE 5 END")
    assert compare(databases, {"one", "two"}, {"refused"}).ok
    assert compare(databases, {"one"}, {"two"}).phantom == {"two"}


def test_what_was_refused_must_not_be_there(databases):
    assert compare(databases, set(), {"one"}).phantom == {"one"}


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ("UPDATE bank_account SET balance = 95 WHERE id = 1", "ada has 95, but by its transfers it should have 90"),
        ("UPDATE bank_account SET balance = -1, paid_in = -11 WHERE id = 2", "bob has -1"),
    ],
)
def test_money_that_is_made_lost_or_owed_is_a_broken_rule(databases, statements, words):
    for path in databases.values():
        change(path, statements)
    found = compare(databases, {"one"})
    assert found.databases_equal
    assert any(words in problem for problem in found.broken_rules)
    assert not found.ok


def test_one_different_value_makes_databases_unequal(databases):
    change(databases["a"], "UPDATE bank_transfer SET reference = 'One'")
    found = compare(databases, set())
    assert not found.databases_equal
    assert "bank_transfer" in " ".join(found.problems())


def test_a_table_that_one_node_lacks_makes_databases_unequal(databases):
    change(databases["b"], "CREATE TABLE extra (id INTEGER)")
    assert compare(databases, {"one"}).different_tables == {"extra"}
