"""Proposing again by the id of an attempt whose outcome is unknown: what came late is found, and doubt stays doubt."""

import msgspec
import pytest

from raftlog.consensus.entries import OPEN_SESSION, client_header
from raftlog.exceptions import NodeUnavailable, OutcomeUnknown, SessionExpired
from raftlog.replication import codec, propose
from raftlog.replication.client_session import BlockingAnswers
from raftlog.replication.registry import Command
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, REFUSED, Outcome


def take(ctx, *, amount: int) -> int:
    return amount


class SilentNode:
    """Opens sessions, and answers nothing else by itself."""

    def __init__(self):
        self.asked = []

    def propose(self, payloads, timeout, done):
        if payloads[0][0] == OPEN_SESSION:
            done([Outcome(payloads[0][1:25], APPLIED, 1, codec.encode(None))])
        else:
            self.asked.append((payloads[0], done))

    def answer(self, position, status, result):
        payload, done = self.asked[position]
        done([Outcome(payload[1:25], status, 9, result)])


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setattr(propose, "ANSWER_GRACE", 0.0)
    before = propose._process.factory
    node = SilentNode()
    propose.set_proposer_factory(lambda: node)
    yield node
    propose.set_proposer_factory(before)


COMMAND = Command(take, name="test.take")
REFUSAL = msgspec.msgpack.encode(("AlreadyAnswered", "below 7, was answered before"))


def give_up():
    with pytest.raises(OutcomeUnknown) as caught:
        COMMAND.with_options(timeout=0.01).propose(amount=3)
    return caught.value.proposal_id


def test_an_answer_that_came_late_is_what_the_retry_returns(node):
    proposal_id = give_up()
    node.answer(0, APPLIED, codec.encode(3))
    assert COMMAND.with_options(timeout=5, proposal_id=proposal_id).propose(amount=3) == 3
    assert len(node.asked) == 1


def test_an_answer_that_comes_during_the_retry_counts_where_the_retry_is_refused(node, monkeypatch):
    """Acknowledged with a later proposal, the sequence is forgotten by the time the retry is applied."""
    proposal_id = give_up()
    ask = node.propose

    def late_answer_first(payloads, timeout, done):
        ask(payloads, timeout, done)
        node.answer(0, APPLIED, codec.encode(3))
        node.answer(1, REFUSED, REFUSAL)

    monkeypatch.setattr(node, "propose", late_answer_first)
    assert COMMAND.with_options(timeout=5, proposal_id=proposal_id).propose(amount=3) == 3
    headers = [client_header(payload) for payload, _ in node.asked]
    assert headers[0].sequence == headers[1].sequence


def test_a_refused_retry_whose_answer_never_came_says_that_it_is_not_known(node, monkeypatch):
    proposal_id = give_up()
    ask = node.propose

    def refuse(payloads, timeout, done):
        ask(payloads, timeout, done)
        node.answer(1, REFUSED, REFUSAL)

    monkeypatch.setattr(node, "propose", refuse)
    with pytest.raises(SessionExpired, match="not known any more"):
        COMMAND.with_options(timeout=5, proposal_id=proposal_id).propose(amount=3)


def test_an_answer_between_the_last_look_and_giving_up_is_the_result(node, monkeypatch):
    give_up = propose.ClientSession.give_up

    def answered_first(session, first_sequence, count):
        node.answer(0, APPLIED, codec.encode(3))
        give_up(session, first_sequence, count)

    monkeypatch.setattr(propose.ClientSession, "give_up", answered_first)
    assert COMMAND.with_options(timeout=0.01).propose(amount=3) == 3


@pytest.mark.parametrize("raised", [True, False])
def test_a_retry_that_is_not_proposed_leaves_the_outcome_unknown_and_unacknowledged(node, monkeypatch, raised):
    """The earlier attempt may be applied: NotProposed would invite the caller to do it twice."""
    proposal_id = give_up()
    ask = node.propose

    def refuse(payloads, timeout, done):
        if raised:
            raise NodeUnavailable("down")
        ask(payloads, timeout, done)
        node.answer(1, NOT_PROPOSED, msgspec.msgpack.encode(("NoLeader", "no leader")))

    monkeypatch.setattr(node, "propose", refuse)
    with pytest.raises(OutcomeUnknown, match=r"could not be proposed again \((down|no leader)\)") as caught:
        COMMAND.with_options(timeout=5, proposal_id=proposal_id).propose(amount=3)
    assert caught.value.proposal_id == proposal_id
    monkeypatch.setattr(node, "propose", ask)
    give_up()
    assert client_header(node.asked[-1][0]).acknowledged_below == client_header(node.asked[0][0]).sequence


def test_of_several_in_doubt_the_lowest_is_not_acknowledged_whichever_was_given_up_first(node):
    """A caller with a short time limit gives up before one that asked earlier."""
    session = propose._process.current()
    session.open(1)
    sequences = [session.submit([b""], BlockingAnswers(1), 1) for _ in range(4)]
    for position in (3, 1, 0):
        session.give_up(sequences[position], 1)
    node.answer(2, APPLIED, codec.encode(None))
    below = []
    for position in (0, 3, 1):
        session.submit([b""], BlockingAnswers(1), 1)
        below.append(client_header(node.asked[-1][0]).acknowledged_below)
        node.answer(-1, APPLIED, codec.encode(None))
        session.settled(sequences[position])
    assert below == [sequences[0], sequences[1], sequences[1]]
    session.submit([b""], BlockingAnswers(1), 1)
    header = client_header(node.asked[-1][0])
    assert header.acknowledged_below == header.sequence
