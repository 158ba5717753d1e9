"""The cluster's write turn on its way: from callers to the leader and back; and proposals that it holds back."""

import threading

import pytest

from raftlog.consensus.entries import KEY, TRANSACTION, client_payload
from raftlog.consensus.state import Role
from raftlog.runtime.ports import APPLIED, ForwardProposals, TurnGranted, TurnReleased, TurnRequest
from raftlog.runtime.proposals import Proposals
from raftlog.runtime.turn_queue import FENCE_HOLD_LIMIT, TurnQueue
from raftlog.runtime.turns import REPEAT, ClientTurns, Turns
from tests.runtime.cluster import Cluster
from tests.runtime.test_proposals import FakeRaft, ended

MINE, OTHERS = b"m" * 16, b"o" * 16


def payload(session, sequence=1):
    return client_payload(TRANSACTION, session, sequence, 0, b"x")


KEY_OF_MINE = payload(MINE)[KEY]


@pytest.fixture
def raft():
    raft = FakeRaft()
    raft.last_applied = 0
    return raft


@pytest.fixture
def turns(raft):
    return Turns(raft, TurnQueue())


def test_a_request_goes_to_the_leader_again_and_again_until_it_is_answered(raft, turns):
    answers = []
    turns.take(KEY_OF_MINE, False, 9.0, answers.append, 0.0)
    assert not turns.has_messages
    raft.follow("a", 2)
    turns.leadership_changed(0.1)
    request = TurnRequest(2, "b", "a", KEY_OF_MINE, False, False)
    assert turns.take_messages("c") == []
    assert turns.take_messages("a") == [request]
    assert turns.take_ready(0.2) == []
    assert turns.take_messages("a") == []
    assert turns.take_ready(0.1 + REPEAT) == []
    assert turns.take_messages("a") == [request]
    turns.granted(KEY_OF_MINE, 5)
    assert turns.take_ready(0.3 + REPEAT) == []  # entry 5 is not applied here yet
    raft.last_applied = 5
    assert turns.take_ready(0.4 + REPEAT) == [(answers.append, True)]
    assert turns.is_idle


def test_a_change_of_leader_before_the_answer_asks_the_next_one(raft, turns):
    raft.follow("a", 2)
    turns.take(KEY_OF_MINE, True, 9.0, print, 0.0)
    turns.granted(KEY_OF_MINE, 5)
    raft.follow("c", 3)
    turns.leadership_changed(0.1)
    raft.last_applied = 5
    assert turns.take_ready(0.2) == []
    assert turns.take_messages("c") == [TurnRequest(3, "b", "c", KEY_OF_MINE, True, False)]


def test_at_its_deadline_it_ends_and_the_leader_hears_of_it(raft, turns):
    raft.follow("a", 2)
    turns.take(KEY_OF_MINE, False, 0.3, print, 0.0)
    turns.take_messages("a")
    assert turns.next_deadline == 0.3
    assert turns.take_ready(0.3) == [(print, False)]
    assert turns.take_messages("a") == [TurnReleased(2, "b", "a", KEY_OF_MINE)]
    turns.granted(KEY_OF_MINE, 5)  # it crossed the release
    assert turns.is_idle


def test_a_grant_that_is_repeated_does_not_end_the_turn_that_is_in_use(raft, turns):
    raft.follow("a", 2)
    turns.take(KEY_OF_MINE, False, 9.0, print, 0.0)
    turns.take_messages("a")
    turns.take_ready(REPEAT)  # the repetition crosses the grant
    turns.take_messages("a")
    raft.last_applied = 5
    for _ in range(2):
        turns.granted(KEY_OF_MINE, 5)
        turns.take_ready(REPEAT)
    assert not turns.has_messages


def test_without_a_leader_nobody_waits_for_a_turn_but_a_schema_change_does(raft, turns):
    turns.take(KEY_OF_MINE, False, 9.0, print, 0.0)
    turns.take(payload(MINE, 2)[KEY], True, 9.0, len, 0.0)
    assert turns.take_ready(REPEAT) == [(print, False)]
    assert turns.take_ready(8.0) == []


def test_the_leader_serves_its_own_callers_and_its_peers_alike(raft):
    queue = TurnQueue()
    turns = Turns(raft, queue)
    raft.lead(4)
    assert turns.receive(TurnRequest(4, "c", "b", payload(OTHERS)[KEY], False, False), 0.0) is None
    turns.take(KEY_OF_MINE, False, 9.0, print, 0.0)
    holder = queue.grant(8, 0.0)
    granted = TurnGranted(4, "b", "c", payload(OTHERS)[KEY], 8)
    assert turns.grant_message(holder) == granted
    # The answer was lost: the peer asks again.
    assert turns.receive(TurnRequest(4, "c", "b", payload(OTHERS)[KEY], False, False), 0.1) == granted
    turns.receive(TurnReleased(4, "c", "b", payload(OTHERS)[KEY]), 0.2)
    assert queue.grant(9, 0.2).key == KEY_OF_MINE
    raft.role = Role.FOLLOWER
    assert turns.receive(TurnRequest(4, "c", "b", payload(OTHERS)[KEY], False, False), 0.3) is None


class FakeServer:
    def __init__(self):
        self.calls = []

    def ask_turn(self, key, is_fence, timeout, done):
        self.calls.append(("take", key, is_fence, timeout))
        done(True)

    def renew_turn(self, key, *, is_fence):
        self.calls.append(("renew", key, is_fence))

    def release_turn(self, key):
        self.calls.append(("release", key))


def test_the_turns_of_an_app_process_end_with_its_connection():
    server, answers = FakeServer(), []
    clients = ClientTurns(server)
    one, two = payload(MINE, 1)[KEY], payload(MINE, 2)[KEY]
    clients.take("one", {"key": one, "fence": True, "timeout": 2.0}, answers.append)
    clients.take("two", {"key": two, "fence": False, "timeout": 2.0}, answers.append)
    clients.renew("one", {"key": one, "fence": True}, answers.append)
    assert answers == [True, True, None]
    clients.gone("one")
    clients.gone("three")
    assert server.calls[-2:] == [("renew", one, True), ("release", one)]


@pytest.mark.parametrize("wrong", [{"key": 1 << 40}, {"key": b"short"}, {"timeout": float("nan")}, {"timeout": -1}])
def test_a_request_that_makes_no_sense_is_refused(wrong):
    server = FakeServer()
    with pytest.raises(ValueError, match=r"24 bytes|limit is"):
        ClientTurns(server).take("one", {"key": KEY_OF_MINE, "fence": False, "timeout": 1.0} | wrong, print)
    assert server.calls == []


# Proposals


@pytest.fixture
def proposals(raft):
    return Proposals(raft, lambda now: 0, max_waiting=5, no_leader_timeout=4.0)


def grant(proposals, *, is_fence=False, now=0.0):
    proposals.turns.ask(KEY_OF_MINE, "b", is_fence=is_fence, is_renewal=False, now=now)
    proposals.turns.grant(1, now)


def forwarded(*payloads, request_id=3):
    return ForwardProposals(2, "a", "b", request_id, list(payloads))


def test_entries_of_others_are_appended_once_the_holders_is_in_the_order_in_which_they_came(raft, proposals):
    raft.lead(2)
    grant(proposals)
    proposals.submit([payload(OTHERS, 1)], 9.0, print, 0.0)
    assert proposals.propose_forwarded(forwarded(payload(OTHERS, 2)), 0.1) is None
    assert proposals.propose_forwarded(forwarded(payload(OTHERS, 3), request_id=4), 0.2) is None
    assert proposals.move_turns(0.3) == ([], [])
    assert raft.appended == []
    proposals.submit([payload(MINE)], 9.0, print, 0.4)
    responses, _ = proposals.move_turns(0.4)
    assert raft.appended == [payload(MINE), payload(OTHERS, 1), payload(OTHERS, 2), payload(OTHERS, 3)]
    assert [(answer.request_id, answer.first_index, answer.recipient) for answer in responses] == [
        (3, 3, "a"),
        (4, 4, "a"),
    ]


def test_what_passes_of_a_request_is_appended_at_once(raft, proposals):
    raft.lead(2)
    grant(proposals)
    assert proposals.propose_forwarded(forwarded(payload(OTHERS, 1), payload(MINE)), 0.1) is None
    assert raft.appended == [payload(MINE)]
    assert proposals.move_turns(0.2)[0][0].keys == [payload(OTHERS, 1)[KEY]]
    assert raft.appended == [payload(MINE), payload(OTHERS, 1)]


def test_too_much_at_once_is_refused(raft, proposals, monkeypatch):
    monkeypatch.setattr("raftlog.runtime.turn_queue.MAX_HELD", 1)
    raft.lead(2)
    grant(proposals)
    answer = proposals.propose_forwarded(forwarded(payload(OTHERS, 1), payload(OTHERS, 2)), 0.1)
    assert (answer.first_index, answer.reason) == (0, "overloaded")
    assert proposals.propose_forwarded(forwarded(payload(OTHERS, 1)), 0.1) is None


def test_behind_a_fence_callers_hear_at_last_that_nothing_was_done(raft, proposals):
    raft.lead(2)
    grant(proposals, is_fence=True)
    proposals.submit([payload(OTHERS, 1)], 99.0, print, 0.0)
    proposals.propose_forwarded(forwarded(payload(OTHERS, 2)), 0.0)
    proposals.turns.ask(KEY_OF_MINE, "b", is_fence=True, is_renewal=True, now=FENCE_HOLD_LIMIT - 1)
    [answer], answered = proposals.move_turns(FENCE_HOLD_LIMIT)
    [(_, [outcome])] = answered
    assert b"schema change" in outcome.result
    assert raft.appended == []
    assert (answer.first_index, answer.reason, answer.keys) == (0, "fence", [payload(OTHERS, 2)[KEY]])
    # On the node that had forwarded it:
    other = FakeRaft()
    other.node_id = "a"
    theirs = Proposals(other, lambda now: 0, max_waiting=5, no_leader_timeout=4.0)
    other.follow("b", 2)
    theirs.submit([payload(OTHERS, 1), payload(OTHERS, 2)], 9.0, print, 0.0)
    message = theirs.take_forward("b")
    [(_, [outcome])] = theirs.forward_answered(
        type(answer)(2, "b", "a", message.request_id, 0, "b", "fence", answer.keys), 0.1
    )
    assert outcome.key == payload(OTHERS, 2)[KEY]
    assert len(theirs) == 1  # the other one was appended


def test_a_new_leader_knows_nothing_of_turns_and_what_was_held_back_is_placed_again(raft, proposals):
    raft.lead(2)
    grant(proposals)
    proposals.submit([payload(OTHERS, 1)], 9.0, print, 0.0)
    raft.follow("c", 3)
    proposals.leadership_changed(0.1)
    assert proposals.turns.is_idle
    assert proposals.take_forward("c").payloads == [payload(OTHERS, 1)]
    assert ended(proposals.expire(9.0))


# Whole nodes with real threads


def take(cluster, node_id, session, sequence=1, timeout=5.0, is_fence=False):
    return cluster.servers[node_id].take_turn(payload(session, sequence)[KEY], is_fence=is_fence, timeout=timeout)


def propose(cluster, node_id, entry):
    answered, outcomes = threading.Event(), []

    def done(some):
        outcomes.extend(some)
        answered.set()

    cluster.servers[node_id].propose([entry], 20.0, done)
    return answered, outcomes


def test_on_any_node_the_holder_goes_first_and_others_follow():
    with Cluster(3) as cluster:
        for number, node_id in enumerate(cluster.ids, 1):
            cluster.leader()
            assert take(cluster, node_id, MINE, number)
            waiting = [propose(cluster, other, payload(OTHERS, 10 * number + n)) for n, other in enumerate(cluster.ids)]
            queue = cluster.servers[cluster.leader()].state.proposals.turns
            cluster.wait(lambda q=queue: sum(len(h.payloads) for h in q.held) == 3, "all three are held back")
            mine, _ = propose(cluster, node_id, payload(MINE, number))
            assert mine.wait(20)
            for answered, outcomes in waiting:
                assert answered.wait(20)
                assert outcomes[0].status == APPLIED
            applied = cluster.machines[node_id].applied
            order = [entry[KEY] for entry in applied if entry[0] == TRANSACTION][-4:]
            assert order[0] == payload(MINE, number)[KEY]


def test_the_next_holder_begins_with_the_entry_of_the_last_one_applied():
    with Cluster(3) as cluster:
        cluster.leader()
        for number in range(1, 13):
            node_id = cluster.ids[number % 3]
            assert take(cluster, node_id, MINE, number)
            seen = [entry for entry in cluster.machines[node_id].applied if entry[0] == TRANSACTION]
            assert len(seen) == number - 1
            propose(cluster, node_id, payload(MINE, number))


def test_turns_of_a_node_that_is_gone_and_of_a_leader_that_is_gone_end():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        first, second = cluster.followers()
        assert take(cluster, first, MINE, 1)
        answered, _ = propose(cluster, second, payload(OTHERS, 1))
        cluster.network.crash(first)
        assert answered.wait(20)
        assert take(cluster, second, OTHERS, 2)
        cluster.network.register(first, cluster.servers[first])
        cluster.network.crash(leader)
        assert cluster.leader(among=[first, second])
        answered, outcomes = propose(cluster, first, payload(MINE, 3))
        assert answered.wait(20)
        assert outcomes[0].status == APPLIED
