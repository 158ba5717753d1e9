"""The way of a proposal to whoever leads, and how each waiting caller ends."""

import msgspec
import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import COMMAND, KEY, EntryId, client_payload
from raftlog.consensus.state import Role
from raftlog.exceptions import NotLeader, NotNow, Overloaded
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, UNKNOWN, ForwardProposals, ForwardResponse, Outcome
from raftlog.runtime.proposals import RETRY_INTERVAL, Proposals

SESSION = b"s" * 16
NO_LEADER_TIMEOUT = 4.0


class FakeRaft:
    """As much of Raft as Proposals sees."""

    node_id = "b"

    def __init__(self):
        self.role, self.leader_id, self.current_term = Role.FOLLOWER, "", 1
        self.configuration = Configuration("", {n: Server("") for n in "abc"}, ("a", "b", "c"))
        self.appended, self.error = [], None

    def propose(self, payloads, log_time, now):
        if self.error:
            raise self.error
        if self.role is not Role.LEADER:
            raise NotLeader(self.leader_id)
        self.appended.extend(payloads)
        return EntryId(len(self.appended), self.current_term)

    def expect_commit(self, peer, index):
        self.expected = (peer, index)

    def lead(self, term=1):
        self.role, self.leader_id, self.current_term = Role.LEADER, self.node_id, term

    def follow(self, leader_id, term):
        self.role, self.leader_id, self.current_term = Role.FOLLOWER, leader_id, term


@pytest.fixture
def raft():
    return FakeRaft()


@pytest.fixture
def proposals(raft):
    return Proposals(raft, lambda now: 0, max_waiting=3, no_leader_timeout=NO_LEADER_TIMEOUT)


def payload(sequence):
    return client_payload(COMMAND, SESSION, sequence, 0, b"x")


def ended(answered):
    return [(outcome.key, outcome.status) for _, outcomes in answered for outcome in outcomes]


def done(outcomes):
    raise AssertionError("Proposals returns what is to be called, and calls nothing itself")


def test_a_leader_appends_and_the_applied_entry_answers_its_caller(proposals, raft):
    raft.lead()
    assert proposals.submit([payload(1)], 10.0, done, now=0.0) == []
    assert raft.appended == [payload(1)]
    outcome = Outcome(payload(1)[KEY], APPLIED, 7, b"")
    assert proposals.resolve([outcome]) == [(done, [outcome])]
    assert len(proposals) == 0


def test_an_entry_of_somebody_else_answers_nobody(proposals, raft):
    raft.lead()
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    assert proposals.resolve([Outcome(payload(2)[KEY], APPLIED, 1, b"")]) == []


def test_a_follower_forwards_to_the_leader_it_knows_and_to_nobody_else(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1), payload(2)], 10.0, done, now=0.0)
    assert proposals.take_forward("c") is None
    message = proposals.take_forward("a")
    assert message.payloads == [payload(1), payload(2)]
    assert (message.sender, message.recipient) == ("b", "a")
    assert proposals.take_forward("a") is None


def test_without_a_leader_proposals_wait_and_go_to_the_next_one(proposals, raft):
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    raft.follow("c", 2)
    proposals.leadership_changed(now=0.1)
    assert proposals.take_forward("c").payloads == [payload(1)]


def test_a_change_of_leader_places_everything_again(proposals, raft):
    """Safe, since a repeat is recognised by session and sequence when it is applied."""
    raft.lead(term=1)
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    raft.follow("c", 2)
    proposals.leadership_changed(now=0.1)
    assert proposals.take_forward("c").payloads == [payload(1)]


def test_the_same_leader_in_the_same_term_gets_nothing_twice(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    message = proposals.take_forward("a")
    proposals.forward_answered(ForwardResponse(2, "a", "b", message.request_id, 7, "a", ""), 0.05)
    proposals.leadership_changed(now=0.1)
    assert proposals.take_forward("a") is None


def test_a_lost_connection_to_the_leader_places_again_what_was_forwarded(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    proposals.take_forward("a")
    proposals.peer_lost("a", now=0.1)
    assert proposals.expire(now=0.1 + RETRY_INTERVAL) == []
    assert proposals.take_forward("a").payloads == [payload(1)]


def refuse(proposals, message, reason, now=0.1, text=""):
    response = ForwardResponse(2, "a", "b", message.request_id, 0, "", reason, text=text)
    return proposals.forward_answered(response, now)


def test_a_refusal_that_says_nothing_was_appended_leaves_no_doubt(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1)], 1.0, done, now=0.0)
    assert refuse(proposals, proposals.take_forward("a"), "not_leader") == []
    assert ended(proposals.expire(now=1.0)) == [(payload(1)[KEY], NOT_PROPOSED)]


def test_an_overloaded_leader_is_told_at_once(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    [(_, [outcome])] = refuse(proposals, proposals.take_forward("a"), "overloaded")
    assert outcome.status == NOT_PROPOSED
    assert msgspec.msgpack.decode(outcome.result)[0] == "Overloaded"


@pytest.mark.parametrize(
    ("prepare", "status"),
    [
        (lambda raft: None, NOT_PROPOSED),  # no leader was ever known: in no log
        (lambda raft: raft.lead(), UNKNOWN),  # appended, not committed: may be yet
    ],
)
def test_at_its_deadline_a_caller_learns_whether_the_outcome_is_unknown(proposals, raft, prepare, status):
    prepare(raft)
    proposals.submit([payload(1)], 2.0, done, now=0.0)
    assert proposals.next_deadline == 2.0
    assert proposals.expire(now=1.9) == []
    assert ended(proposals.expire(now=2.0)) == [(payload(1)[KEY], status)]


def test_an_answer_without_a_leader_says_that_there_is_no_majority(proposals, raft):
    proposals.submit([payload(1)], 1.0, done, now=0.0)
    [(_, [outcome])] = proposals.expire(now=1.0)
    name, text = msgspec.msgpack.decode(outcome.result)
    assert name == "NoLeader"
    assert "no majority of ['a', 'b', 'c']" in text


def test_nobody_waits_for_long_where_there_is_no_leader(proposals, raft):
    raft.lead(term=1)
    proposals.submit([payload(1)], 1000.0, done, now=0.0)
    raft.follow("", 2)
    proposals.leadership_changed(now=1.0)
    assert proposals.next_deadline == 1.0 + NO_LEADER_TIMEOUT
    assert ended(proposals.expire(now=1.0 + NO_LEADER_TIMEOUT)) == [(payload(1)[KEY], UNKNOWN)]


def test_more_than_the_limit_is_refused_at_once_and_the_rest_is_taken(proposals, raft):
    raft.lead()
    refused = proposals.submit([payload(n) for n in range(1, 6)], 10.0, done, now=0.0)
    assert ended(refused) == [(payload(4)[KEY], NOT_PROPOSED), (payload(5)[KEY], NOT_PROPOSED)]
    assert raft.appended == [payload(1), payload(2), payload(3)]


def test_a_caller_on_a_new_connection_takes_its_old_place(proposals, raft):
    raft.lead()
    proposals.submit([payload(1)], 10.0, done, now=0.0)

    def newer(outcomes):
        raise AssertionError

    proposals.submit([payload(1)], 10.0, newer, now=0.5)
    assert raft.appended == [payload(1)]
    outcome = Outcome(payload(1)[KEY], APPLIED, 1, b"")
    assert proposals.resolve([outcome]) == [(newer, [outcome])]


def test_a_stopping_node_answers_everybody(proposals, raft):
    raft.lead()
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    assert ended(proposals.end_all("NodeUnavailable", "stopping")) == [(payload(1)[KEY], UNKNOWN)]


def test_a_leader_with_too_much_uncommitted_tries_again_soon(proposals, raft):
    raft.lead()
    raft.error = Overloaded("too much")
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    raft.error = None
    proposals.expire(now=RETRY_INTERVAL)
    assert raft.appended == [payload(1)]


def test_callers_go_on_waiting_for_a_leader_that_takes_nothing_for_a_moment(proposals, raft):
    """While it hands over, or its disk is full."""
    raft.lead()
    raft.error = NotNow("b leads, but takes nothing: its disk is full")
    message = ForwardProposals(1, "c", "b", 5, [payload(1)])
    answer = proposals.propose_forwarded(message, now=0.0)
    assert (answer.first_index, answer.reason) == (0, "not_now")
    assert answer.text == "b leads, but takes nothing: its disk is full"
    raft.follow("a", 2)
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    assert refuse(proposals, proposals.take_forward("a"), "not_now", text=answer.text) == []
    raft.follow("c", 3)
    proposals.leadership_changed(now=0.2)
    assert proposals.take_forward("c").payloads == [payload(1)]


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_at_its_deadline_a_caller_learns_why_the_leader_took_nothing(proposals, raft, role):
    if role == "leader":
        raft.lead()
        raft.error = NotNow("its disk is full")
        proposals.submit([payload(1)], 1.0, done, now=0.0)
    else:
        raft.follow("a", 2)
        proposals.submit([payload(1)], 1.0, done, now=0.0)
        refuse(proposals, proposals.take_forward("a"), "not_now", text="its disk is full")
    proposals.expire(now=RETRY_INTERVAL)
    [(_, [outcome])] = proposals.expire(now=1.0)
    assert outcome.status == NOT_PROPOSED
    assert b"no answer within the time limit; its disk is full" in outcome.result


def test_forwarded_proposals_are_appended_by_a_leader_and_refused_by_others(proposals, raft):
    message = ForwardProposals(1, "c", "b", 5, [payload(1)])
    refused = proposals.propose_forwarded(message, now=0.0)
    assert (refused.first_index, refused.reason) == (0, "not_leader")
    raft.lead()
    accepted = proposals.propose_forwarded(message, now=0.0)
    assert (accepted.first_index, accepted.request_id, accepted.recipient) == (1, 5, "c")
    assert raft.expected == ("c", 1)


def test_what_waits_for_a_lost_leader_to_be_connected_again_is_kept(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1)], 10.0, done, now=0.0)
    proposals.leadership_changed(now=0.1)
    assert proposals.take_forward("a").payloads == [payload(1)]


def test_deadlines_of_answered_callers_are_forgotten(proposals, raft):
    raft.lead()
    proposals.submit([payload(1)], 1.0, done, now=0.0)
    proposals.submit([payload(2)], 2.0, done, now=0.0)
    proposals.resolve([Outcome(payload(1)[KEY], APPLIED, 1, b"")])
    assert proposals.next_deadline == 2.0
    proposals.resolve([Outcome(payload(2)[KEY], APPLIED, 2, b"")])
    assert proposals.next_deadline == float("inf")
