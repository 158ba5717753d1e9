"""`raft outcome`: asked by a proposal's id or by a key, for people, and for scripts by its exit codes."""

import json

import pytest
from django.core.management.base import CommandError
from django.db import IntegrityError, OperationalError, connection

from raftlog.exceptions import CommandFailed, OutcomeUnknown, SessionExpired
from raftlog.management.raft import outcome
from raftlog.models import IdempotencyKey
from raftlog.replication import codec, idempotency
from raftlog.replication.keyed import IdempotencyName
from tests.replication.conftest import sqlite_database
from tests.surface.test_raft_command import raft


def asked(monkeypatch, answer):
    calls = []

    def ask(proposal_id, timeout, *, key, scope):
        calls.append((proposal_id, timeout, key, scope))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(outcome, "outcome", ask)
    return calls


@pytest.mark.parametrize(
    ("answer", "code", "name"),
    [
        ({"made": b"\x01"}, 0, "applied"),
        (CommandFailed("ValueError", "no"), 1, "failed"),
        (IntegrityError("taken"), 1, "failed"),
        (OutcomeUnknown("not so far", "x:1"), 2, "unknown"),
        (SessionExpired("it was acknowledged"), 3, "forgotten"),
    ],
)
def test_each_outcome_has_its_exit_code(monkeypatch, answer, code, name):
    calls = asked(monkeypatch, answer)
    assert raft("outcome", "x:1", "--timeout", "3")[0] == code
    ended, printed = raft("outcome", "--key", "k", "--scope", "ann", "--json")
    assert (ended, json.loads(printed)["outcome"]) == (code, name)
    assert calls == [("x:1", 3.0, "", ""), ("", 0.0, "k", "ann")]


def test_a_database_that_cannot_be_asked_is_no_outcome(monkeypatch):
    trouble = OperationalError("disk I/O error")
    trouble.__cause__ = OSError()
    asked(monkeypatch, trouble)
    with pytest.raises(CommandError, match="disk I/O error"):
        raft("outcome", "x:1")


@pytest.mark.parametrize("arguments", [("nonsense",), (), ("x:1", "--key", "k"), ("x:1", "--scope", "s")])
def test_what_cannot_be_asked(arguments):
    with pytest.raises(CommandError):
        raft("outcome", *arguments)


def test_by_key_from_the_database(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), sqlite_database(tmp_path):
        with connection.schema_editor() as editor:
            editor.create_model(IdempotencyKey)
        keyed = IdempotencyName("ann", "k").asking("x")
        idempotency.record("default", keyed, None, index=7, log_time=1, result=codec.encode([1, "a"]))
        assert raft("outcome", "--key", "k", "--scope", "ann") == (0, "applied: [1, 'a']\n")
        code, printed = raft("outcome", "--key", "k")
        assert code == 2
        assert "nothing was done on this host so far" in printed
