"""What is logged stands in the reference, under names that are the same everywhere (raftlog/log_fields.py)."""

import ast
import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest

from raftlog.consensus.events import Event
from raftlog.log_fields import EVENTS, FIELDS, PREFIX, Fields, log_fields
from raftlog.runtime.event_fields import FIELD_OF, event_fields, name_of

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/logs.md").read_text()
SOURCES = [path for path in sorted((ROOT / "raftlog").rglob("*.py")) if "testing" not in path.parts]
# What of an event no field is for: the message says it.
ONLY_IN_WORDS = {"last_log_term", "commit_index", "pre_vote", "last_index", "configuration", "expected", "found"}
ONLY_IN_WORDS |= {"snapshot_index", "kept_log"}


def rows(section):
    table = REFERENCE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", table.split("| --- |")[1], re.M))


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node


def test_each_logger_stands_in_the_table_and_no_other():
    names = {
        node.args[0].value
        for path in SOURCES
        for node in calls(path)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger"
    }
    assert set(rows("Loggers")) == names
    assert all(name.startswith("raftlog.") for name in names)


def test_each_field_and_each_event_stands_there_in_the_words_of_the_code():
    assert rows("Fields") == {PREFIX + name: words for name, words in FIELDS.items()}
    assert rows("Events") == EVENTS
    assert set(FIELDS) == {"event", *Fields.__annotations__}


def test_every_event_that_is_named_is_known_and_none_is_left_over():
    used = {name_of(event) for event in Event.__subclasses__()}
    for path in SOURCES:
        for node in calls(path):
            if isinstance(node.func, ast.Name) and node.func.id == "log_fields" and path.name != "event_fields.py":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
                used.add(node.args[0].value)
    assert used == set(EVENTS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_warning_and_what_is_worse_has_fields(path):
    bare = [
        f"{path.name}:{node.lineno}"
        for node in calls(path)
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in ("warning", "error", "critical", "exception", "log")
        and isinstance(node.func.value, ast.Name)
        and "logger" in node.func.value.id
        and "extra" not in {keyword.arg for keyword in node.keywords}
    ]
    assert bare == []


@pytest.mark.parametrize("event", Event.__subclasses__(), ids=name_of)
def test_what_an_event_says_goes_into_a_field_or_is_meant_to_stay_in_words(event):
    assert {field.name for field in fields(event)} <= set(FIELD_OF) | ONLY_IN_WORDS
    made = event_fields("a", event(term=7))
    assert {"raftlog_event": name_of(event), "raftlog_node": "a", "raftlog_term": 7}.items() <= made.items()


def test_no_field_is_one_that_logging_or_a_project_sets():
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "x", (), None)
    taken = set(vars(record)) | {"message", "asctime"}
    assert taken.isdisjoint(PREFIX + name for name in FIELDS)
    assert log_fields("torn_tail", node="a", term=1) == {
        "raftlog_event": "torn_tail",
        "raftlog_node": "a",
        "raftlog_term": 1,
    }
