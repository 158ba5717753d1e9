"""Counters: what a process adds is gathered and proposed together, once, whatever the node answers."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from django.db import DatabaseError, connections, transaction
from django.test import override_settings

from raftlog.consensus.entries import COMMAND
from raftlog.contrib import counters
from raftlog.contrib.counters import api, gathering
from raftlog.contrib.counters.models import Counter
from raftlog.exceptions import InsideTransaction, InvalidArguments, NotProposed
from raftlog.replication.context import CommandContext
from tests.contrib.databases import inline, make_tables, node, postgresql, stock_file  # noqa: F401


@pytest.fixture
def counting(node, monkeypatch):  # noqa: F811
    """The node, its tables made; changes are gathered until somebody hurries."""
    make_tables(Counter)
    monkeypatch.setattr(gathering, "PAUSE", 0.01)
    with override_settings(RAFTLOG_COUNTERS_INTERVAL=30):
        yield node
        assert counters.flush(10)


def commands(node):  # noqa: F811
    return [payload for payload in node.proposed if payload[0] == COMMAND]


def is_command(payloads):
    return payloads[0][0] == COMMAND


def test_additions_are_gathered_into_one_command(counting):
    for _ in range(1000):
        assert counters.add("views") is None
    counters.add("views", -10)
    counters.add("sales", 3)
    assert counters.value("views") == 0
    assert counters.flush(10)
    assert counters.values("views", "sales", "nothing") == {"views": 990, "sales": 3, "nothing": 0}
    assert len(commands(counting)) == 1


def test_exact_waits_for_the_log_and_tells_the_value(counting):
    assert [counters.add("views", exact=True), counters.add("views", 5, exact=True)] == [1, 6]
    assert counters.value("views") == 6


def test_in_a_transaction_it_counts_once_that_is_committed(counting):
    with transaction.atomic():
        counters.add("views")
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 (one block is what is tested)
        counters.add("views", 100)
        raise ZeroDivisionError
    with transaction.atomic(), pytest.raises(InsideTransaction):
        counters.add("views", exact=True)
    counters.flush(10)
    assert counters.value("views") == 1


def test_inside_a_command_add_is_refused_and_the_command_of_counters_is_called(counting, monkeypatch):
    ctx = CommandContext()
    assert counters.add_in_command(ctx, changes={"b": 2, "a": 1}) == {"a": 1, "b": 2}
    assert counters.add_in_command(ctx, changes={"b": -3}) == {"b": -1}
    monkeypatch.setattr(api, "is_applying", lambda: True)
    with pytest.raises(InsideTransaction, match=r"add_in_command\(ctx, changes=\{'views': 7\}\)"):
        counters.add("views", 7)


def test_the_largest_by_prefix(counting):
    counters.add_in_command(CommandContext(), changes={"page:a": 5, "page:b": 9, "page:c": 5, "other": 100})
    assert counters.top(2) == [("other", 100), ("page:b", 9)]
    assert counters.top(10, "page:") == [("page:b", 9), ("page:a", 5), ("page:c", 5)]
    assert counters.top(10, "page:%") == []


def test_reset_tells_what_it_was(counting):
    counters.add("views", 4)
    assert counters.reset("views") == 4
    assert (counters.value("views"), counters.reset("views")) == (0, 0)


def test_a_counter_stays_at_its_limit(counting):
    largest = 2**63 - 1
    assert counters.add("views", largest, exact=True) == largest
    assert counters.add("views", largest, exact=True) == largest
    assert counters.add("views", -1, exact=True) == largest - 1
    counters.add_in_command(CommandContext(), changes={"low": -largest})
    assert counters.add("low", -largest, exact=True) == -(2**63)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "name is ''"),
        ((3,), "name is 3"),
        (("x" * 201,), "1 to 200"),
        (("a\0",), "1 to 200"),
        (("x", 1.5), "n is 1.5"),
        (("x", True), "n is True"),
        (("x", 2**63), "at most 64 bits"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    with pytest.raises(InvalidArguments, match=message):
        counters.add(*arguments)


def test_a_batch_whose_outcome_is_unknown_is_not_applied_twice(counting):
    lost = []

    def lose(payloads):
        lost.append(payloads)
        return len(lost) < 3

    counting.answer_unknown = lambda payloads: is_command(payloads) and lose(payloads)
    counters.add("views", 7)
    assert counters.flush(10)
    assert counters.value("views") == 7
    assert len(lost) == 3
    assert len({payload[1:25] for payload in commands(counting)}) == 1  # session and sequence of the first attempt


def test_a_batch_whose_answer_is_lost_is_asked_for_again(counting):
    with override_settings(RAFTLOG={"PROPOSAL_TIMEOUT": 0.2}):
        answers = iter([True])
        counting.lose_answer = lambda payloads: is_command(payloads) and next(answers, False)
        counters.add("views", 7)
        assert counters.flush(10)
        assert counters.value("views") == 7


def test_while_no_node_is_there_additions_wait(counting, caplog):
    counting.unavailable = True
    counters.add("views")
    assert not counters.flush(0.3)
    counters.add("views")
    counting.unavailable = False
    assert counters.flush(10)
    assert counters.value("views") == 2
    assert [record.levelname for record in caplog.records if record.name == "raftlog.counters"] == ["WARNING"]
    counting.unavailable = True
    with pytest.raises(NotProposed):
        counters.add("views", exact=True)
    counting.unavailable = False


def test_what_waits_is_bounded(counting, monkeypatch, caplog):
    monkeypatch.setattr(gathering, "MAX_NAMES", 2)
    for name in "abca":
        counters.add(name)
    counters.flush(10)
    assert counters.values("a", "b", "c") == {"a": 2, "b": 1, "c": 0}
    assert "2 names wait for the log already; c is not counted (+1)" in caplog.text


def test_many_names_travel_in_several_commands(counting, monkeypatch):
    monkeypatch.setattr(gathering, "BATCH", 10)
    for n in range(25):
        counters.add(f"n{n}")
    counters.flush(10)
    assert len(commands(counting)) == 3
    assert len(counters.top(100)) == 25


def test_it_may_be_called_in_async_code(counting):
    async def view():
        counters.add("views")

    asyncio.run(view())
    counters.flush(10)
    assert counters.value("views") == 1


def test_threads_lose_nothing(counting):
    with override_settings(RAFTLOG_COUNTERS_INTERVAL=0.01):

        def work():
            for n in range(300):
                counters.add(f"n{n % 7}")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counters.flush(10)
    assert sum(count for _, count in counters.top(10)) == 1200


@override_settings(RAFTLOG_COUNTERS_INTERVAL=0)
@pytest.mark.django_db
def test_a_project_tests_its_counters_inside_the_transaction_of_the_test(raft_inline):
    counters.add("views", 2)
    assert counters.value("views") == 2
    with transaction.atomic():
        counters.add("views", exact=False)
        assert counters.value("views") == 2  # once it is committed
    assert len(raft_inline.entries) == 1


@pytest.mark.parametrize("interval", [-1, 61, True, "1"])
def test_an_interval_that_is_none_is_named(interval):
    with override_settings(RAFTLOG_COUNTERS_INTERVAL=interval), pytest.raises(ValueError, match="from 0 to 60 seconds"):
        counters.add("views")


@pytest.mark.parametrize("vendor", ["inline", "postgresql"])
def test_the_command_does_the_same_on_both_vendors(request, vendor):
    request.getfixturevalue(vendor)
    make_tables(Counter)
    with transaction.atomic():
        assert counters.add_in_command(CommandContext(), changes={"b": 2, "a": 2**63 - 1}) == {"a": 2**63 - 1, "b": 2}
        assert counters.add_in_command(CommandContext(), changes={"b": 2, "a": 1}) == {"a": 2**63 - 1, "b": 4}
    assert counters.top(5) == [("a", 2**63 - 1), ("b", 4)]


SCRIPT = """
import os, sys, django
django.setup()
from django.core.management import call_command
from raftlog.contrib import counters
call_command("migrate", verbosity=0)
counters.add("views", 3)
if os.fork() == 0:
    counters.add("views", 4)  # the child's own, and not the parent's again
    sys.exit()
os.wait()
"""


def test_a_process_that_ends_leaves_nothing_behind(tmp_path):
    """One voter, no node: the process becomes it at its end, and so does its child before."""
    settings = textwrap.dedent(
        f"""
        SECRET_KEY = "x"
        INSTALLED_APPS = ["raftlog", "raftlog.contrib.counters"]
        DATABASES = {{"default": {{"ENGINE": "raftlog.backends.sqlite3", "NAME": {str(tmp_path / "db.sqlite3")!r}}}}}
        RAFTLOG = {{"DATA_DIR": {str(tmp_path / "raft")!r}}}
        """
    )
    (tmp_path / "ending_settings.py").write_text(settings)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "ending_settings",
        "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)]),
    }
    run = [sys.executable, "-c"]
    done = subprocess.run([*run, SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    read = "import django; django.setup(); from raftlog.contrib import counters; print(counters.value('views'))"
    done = subprocess.run([*run, read], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "7", done.stderr


def test_before_migrate_nothing_is_proposed_that_no_node_could_apply(counting, caplog):
    with connections["default"].schema_editor() as editor:
        editor.delete_model(Counter)
    gathering.gatherer._has_table = False
    before = len(commands(counting))
    counters.add("views")
    assert counters.flush(10)
    with pytest.raises(DatabaseError, match="raftlog_counters_counter"):
        counters.add("views", exact=True)
    with pytest.raises(DatabaseError, match="raftlog_counters_counter"):
        counters.reset("views")
    assert len(commands(counting)) == before
    assert "not counted: {'views': 1}" in caplog.text
    make_tables(Counter)


def test_a_thread_that_cannot_begin_leaves_nothing_that_waits_for_it(counting, monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            counters.add("views")
    assert counters.flush(10)
    counters.add("views", 2)
    assert counters.flush(10)
    assert counters.value("views") == 2
