"""What differs from node to node is found and named by line; what does not is left alone."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection, transaction

from raftlog import command
from raftlog.exceptions import InvalidArguments
from raftlog.replication.registry import registry
from raftlog.testing.contents import differences, read_contents
from raftlog.testing.determinism import example
from raftlog.testing.determinism.cases import copy_database, load, make_case, save
from raftlog.testing.determinism.checker import DeterminismError
from raftlog.testing.determinism.checking import Determinism
from tests.replication.conftest import database  # noqa: F401
from tests.replication.warehouse.commands import add_item
from tests.replication.warehouse.models import Item, Order

ROOT = Path(__file__).parents[2]
ZOO = Path(__file__).parent / "zoo" / "commands.py"
MARK = re.compile(r"  # (clock|random|host|rows|hash|zone|locale|memory|again)$")


def determinism(*arguments):
    ran = subprocess.run(
        [sys.executable, "-m", "raftlog.testing.determinism", *arguments],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.testing.zoo_settings", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def expected():
    """Command -> {(condition, line)}, from the comments."""
    lines = ZOO.read_text().splitlines()
    marks = {}
    for node in ast.parse(ZOO.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            found = [(number, MARK.search(lines[number - 1])) for number in range(node.lineno, node.end_lineno + 1)]
            marks[f"zoo.{node.name}"] = {
                (match[1], f"tests/testing/zoo/commands.py:{n}") for n, match in found if match
            }
    return marks


def test_each_of_the_zoo_is_found_with_its_line_and_none_of_the_others():
    code, printed, errors = determinism("--json", "zoo")
    assert code == 1, errors
    answer = json.loads(printed)
    found = {name: set() for name in expected()}
    named = {}
    for finding in answer["findings"]:
        assert finding["rows"] or finding["ended"], finding
        found[finding["command"]].add(finding["condition"])
        named.setdefault(finding["command"], []).append([line["line"] for line in finding["lines"]])
    assert found == {name: {condition for condition, _ in marks} for name, marks in expected().items()}
    for name, marks in expected().items():
        if marks:
            (lines,) = named[name]
            assert {line for _, line in marks} <= set(lines), name
            by_site = {condition for condition, _ in marks} & {"clock", "random", "host", "rows"}
            # Where a condition can hold for one line at a time, no innocent line is named; else who called it may be.
            assert not by_site or {line for _, line in marks} == set(lines), name
    assert answer["raised"] == [
        {"case": "zoo.good_failure(name='ant')", "words": "DoesNotExist: Animal matching query does not exist."}
    ]
    assert answer["untried"] == ["zoo.without_example"]
    (hint,) = answer["hints"]
    assert hint["words"] == "zoo.without_example takes chance: take ctx.random, or ctx.uuid()"
    assert ZOO.read_text().splitlines()[int(hint["line"].rpartition(":")[2]) - 1] == "    return str(uuid.uuid4())"


def test_automatic_keys_differ_where_sequences_skip():
    code, printed, errors = determinism("--keys", "zoo.good_automatic_key")
    assert code == 1, errors
    assert "depends on the counter of automatic keys: take ctx.index for the key" in printed
    assert 'return Animal.objects.create(name="x").pk' in printed
    assert "zoo_animal, key 1, column id: 1 at first, 1001 with a counter further on" in printed
    assert "1 cases of 1 commands: 1 of them differ" in printed


def test_what_there_is_nothing_to_check_of_is_told():
    code, printed, _ = determinism("nothing")
    assert code == 2
    assert "'nothing' is neither a command nor an app with commands; these apps have some: zoo" in printed


def test_a_copy_holds_what_the_open_transaction_shows(database, tmp_path):  # noqa: F811
    item = Item.objects.create(name="tea", stock=5)
    with transaction.atomic():
        Item.objects.create(name="milk")
        Order.objects.create(item=item, quantity=2, made_at="2026-01-01T00:00:00Z")
        copy_database("default", tmp_path / "copy.sqlite3")
        transaction.set_rollback(True)
    copied = read_contents(tmp_path / "copy.sqlite3")
    assert sorted(row[1] for row in copied["warehouse_item"].rows.values()) == ["milk", "tea"]
    assert [row[2] for row in copied["warehouse_order"].rows.values()] == [2] or len(
        copied["warehouse_order"].rows
    ) == 1
    assert Item.objects.count() == 1


def test_a_copy_of_a_replicated_database(replicated_sqlite, tmp_path):
    with replicated_sqlite(), transaction.atomic():
        Item.objects.create(name="tea")
        copy_database("default", tmp_path / "copy.sqlite3")
    assert len(read_contents(tmp_path / "copy.sqlite3")["warehouse_item"].rows) == 1


def test_a_case_comes_back_from_its_folder(db, tmp_path):
    case = make_case(add_item, {"name": "tea"}, tmp_path / "one.sqlite3")
    save(case, tmp_path)
    assert load(tmp_path) == [case]
    assert case.words() == "warehouse.add_item(name='tea', stock=0)"


def test_a_command_of_the_project_is_checked_on_the_tests_data(raft_determinism):
    Item.objects.create(pk=5, name="tea")
    raft_determinism.check(add_item, name="milk")
    raft_determinism.check(add_item, name="tea")  # it fails, alike
    assert Item.objects.count() == 1
    with pytest.raises(InvalidArguments):
        raft_determinism.check(add_item, nome="milk")


def test_a_command_that_no_other_process_knows_is_told(db):
    @command(name="tests.local")
    def local(ctx) -> None: ...

    try:
        with pytest.raises(DeterminismError, match=r"'tests\.local' version 1 is in none of this project's modules"):
            Determinism().check(local)
    finally:
        registry.remove(local)
    assert not connection.in_atomic_block or connection.get_autocommit() is False


def test_an_example_stands_above_a_command_and_fits_it():
    with pytest.raises(TypeError, match="stands above @command"):
        example(name="tea")(lambda ctx: None)
    with pytest.raises(InvalidArguments):
        example(nome="tea")(add_item)


def test_rows_that_only_one_side_has_are_paired_or_named(tmp_path):
    import sqlite3

    contents = []
    for name, rows in (("one", [(1, "tea"), (2, "milk")]), ("other", [(1, "tea"), (7, "milk"), (8, "salt")])):
        raw = sqlite3.connect(tmp_path / name)
        raw.execute("CREATE TABLE item (id integer PRIMARY KEY, name text)")
        raw.executemany("INSERT INTO item VALUES (?, ?)", rows)
        raw.commit()
        raw.close()
        contents.append(read_contents(tmp_path / name))
    first, second = differences(*contents)
    assert first.words("here", "there") == "item, key 2, column id: 2 here, 7 there"
    assert second.words("here", "there") == "item, key 8: the row is there there, and not here"
