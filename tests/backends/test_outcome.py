"""A transaction whose answer comes after its caller has given up: how it ended is told by its proposal id."""

import pytest
from django.db import IntegrityError, OperationalError

import raftlog
from raftlog.backends import node_log
from raftlog.backends.node_log import NodeLog
from raftlog.replication.certify import Verdict, VerdictKind, encode_verdict
from raftlog.replication.write_set import FORMAT, WriteSet
from raftlog.runtime.ports import APPLIED, FAILED
from tests.replication.test_late_answers import node  # noqa: F401  (a fixture)

WRITE_SET = WriteSet(FORMAT, 0, 0, [], [], [], [])

VERDICTS = [
    (VerdictKind.CONFLICT, raftlog.TransactionConflict),
    (VerdictKind.UNIQUE_CONFLICT, raftlog.UniqueConflict),
    (VerdictKind.INTEGRITY, IntegrityError),
]


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(node_log, "ANSWER_GRACE", 0.0)
    log = NodeLog()
    log.timeout = 0.01
    return log


def give_up(log):
    with pytest.raises(raftlog.OutcomeUnknown) as caught:
        log.commit(WRITE_SET, b"", None)
    assert isinstance(caught.value, OperationalError)
    return caught.value.proposal_id


def test_a_transaction_that_was_committed_later(node, log):  # noqa: F811
    proposal_id = give_up(log)
    node.answer(0, APPLIED, encode_verdict(Verdict(VerdictKind.APPLIED)))
    assert raftlog.outcome(proposal_id) is None


@pytest.mark.parametrize(("kind", "error"), VERDICTS)
def test_a_transaction_that_changed_nothing(node, log, kind, error):  # noqa: F811
    proposal_id = give_up(log)
    node.answer(0, FAILED, encode_verdict(Verdict(kind, "somebody was first")))
    with pytest.raises(error, match="somebody was first"):
        raftlog.outcome(proposal_id)


def test_an_answer_that_comes_just_as_its_caller_gives_up_is_not_lost(node, log, monkeypatch):  # noqa: F811
    """It is acknowledged from then on: nobody could ask for it later."""

    class Answers(node_log.BlockingAnswers):
        def wait(self, timeout):
            return None

    given_up = raftlog.replication.client_session.ClientSession.give_up

    def give_up_late(session, sequence, count):
        node.answer(0, APPLIED, encode_verdict(Verdict(VerdictKind.APPLIED)))
        given_up(session, sequence, count)

    monkeypatch.setattr(node_log, "BlockingAnswers", Answers)
    monkeypatch.setattr(raftlog.replication.client_session.ClientSession, "give_up", give_up_late)
    assert log.commit(WRITE_SET, b"", None).kind is VerdictKind.APPLIED


def test_the_id_of_a_transaction_is_not_one_of_a_command(node, log):  # noqa: F811
    proposal_id = give_up(log)
    with pytest.raises(ValueError, match="is no proposal id"):
        raftlog.replication.asking.outcome(proposal_id)
