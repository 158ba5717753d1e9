"""The cluster's turn as an app process takes it: named by the proposal to come, renewed, released (rule 15)."""

import os
import threading

import pytest
from django.db import connections, transaction

from raftlog.backends import cluster_turns
from raftlog.backends.exceptions import TransactionNotProposed
from raftlog.backends.log import log_for, use_log
from raftlog.backends.node_log import NodeLog
from raftlog.consensus.entries import KEY, TRANSACTION
from raftlog.exceptions import NodeUnavailable
from raftlog.replication import propose
from tests.backends.test_turn import wait_for
from tests.replication.conftest import default_database
from tests.replication.node import OneNode


@pytest.fixture
def node(tmp_path, django_db_blocker):
    settings = {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"init_command": "PRAGMA synchronous = OFF"},
    }
    with django_db_blocker.unblock():
        use_log("default", NodeLog())
        with default_database(settings):
            made = OneNode()
            propose.set_proposer_factory(lambda: made)
            try:
                run("CREATE TABLE t (a integer PRIMARY KEY, b integer)")
                run("INSERT INTO t VALUES (1, 1)")
                made.turns.clear()
                made.released.clear()
                yield made
            finally:
                propose.set_proposer_factory(None)
                made.stop()


def run(sql):
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)


def update():
    with transaction.atomic():
        run("UPDATE t SET b = b + 1")


def keys_proposed(node):
    return [payload[KEY] for payload in node.proposed if payload[0] == TRANSACTION]


def test_an_entry_goes_under_the_sequence_for_which_the_turn_was_taken(node):
    update()
    [(key, is_fence)] = node.turns
    assert not is_fence
    assert keys_proposed(node)[-1] == key
    assert node.released == []  # the leader ends it with the entry


def test_a_turn_that_was_not_used_is_released(node):
    with transaction.atomic():
        run("UPDATE t SET b = b + 1")
        transaction.set_rollback(True)
    node.refuse = lambda payloads: "Overloaded"
    with pytest.raises(TransactionNotProposed):
        update()
    node.refuse = lambda payloads: ""
    assert node.released == [key for key, _ in node.turns]
    assert len(node.released) == 2
    before = len(keys_proposed(node))
    update()
    assert len(keys_proposed(node)) == before + 1  # and the session goes on over the sequence that was given up


def test_a_schema_change_keeps_its_fence_until_it_is_over(node):
    with connections["default"].schema_editor() as editor:
        editor.execute("CREATE TABLE u (a integer)")
    update()
    (fence, turn), kinds = zip(*node.turns, strict=True)
    assert kinds == (True, False)
    assert fence != turn
    assert node.released == [fence]
    assert fence not in [payload[KEY] for payload in node.proposed]


def test_without_a_node_a_transaction_runs_and_its_commit_says_so(node):
    node.take_turn = unavailable
    node.unavailable = True
    with pytest.raises(TransactionNotProposed, match="not there"):
        update()


def unavailable(key, *, is_fence, timeout):
    raise NodeUnavailable("the node is not there")


def test_a_turn_is_renewed_while_it_is_held_and_the_renewer_ends(node, monkeypatch):
    monkeypatch.setattr(cluster_turns, "RENEWED_EVERY", 0.01)
    renewed = []
    node.renew_turn = lambda key, *, is_fence: renewed.append((key, is_fence))
    turns = log_for("default")._turns
    with transaction.atomic():
        run("UPDATE t SET b = b + 1")
        wait_for(lambda: len(renewed) > 2)
    wait_for(lambda: turns._renewer is None)
    assert set(renewed) == {node.turns[0]}


def test_another_thread_of_the_process_proposes_under_its_own_sequence(node):
    with transaction.atomic():
        run("UPDATE t SET b = b + 1")
        turns = log_for("default")._turns
        assert turns.of_this_thread() is not None
        found = []
        thread = threading.Thread(target=lambda: found.append(turns.of_this_thread()))
        thread.start()
        thread.join()
        assert found == [None]


def test_a_forked_child_does_not_release_its_parents_turn(node):
    with transaction.atomic():
        run("UPDATE t SET b = b + 1")
        held = log_for("default")._turns
        pid = os.fork()
        if not pid:
            try:
                mine = held.of_this_thread()
                connections["default"].connection.control.cluster.release()
                os._exit(0 if mine is None and node.released == [] else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    assert keys_proposed(node)[-1] == node.turns[-1][0]
