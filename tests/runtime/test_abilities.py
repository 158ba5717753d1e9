"""A leader proposes only what every voter can apply."""

import msgspec
import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.entries import COMMAND, KEY, TRANSACTION, client_payload
from raftlog.runtime.abilities import IDEMPOTENCY_KEYS, Abilities
from raftlog.runtime.monitor import Monitor
from raftlog.runtime.ports import NOT_PROPOSED, ForwardProposals, ForwardResponse
from raftlog.runtime.proposals import Proposals
from tests.runtime.test_proposals import FakeRaft

SESSION = b"s" * 16
OLD, NEW = {"shop.buy": [1]}, {"shop.buy": [1, 2], "shop.refund": [1]}


def payload(sequence, name="shop.buy", version=1):
    return client_payload(COMMAND, SESSION, sequence, 0, msgspec.msgpack.encode([name, version, {"item": 3}]))


@pytest.fixture
def raft():
    raft = FakeRaft()
    raft.lead()
    return raft


@pytest.fixture
def remembered():
    return []


@pytest.fixture
def abilities(raft, remembered):
    return Abilities(raft, Monitor(), NEW, {}, remembered.append)


@pytest.fixture
def proposals(raft, abilities):
    proposals = Proposals(raft, lambda now: 0, max_waiting=10, no_leader_timeout=4.0)
    proposals.abilities = abilities
    return proposals


def done(outcomes):
    raise AssertionError("Proposals returns what is to be called, and calls nothing itself")


def hear(abilities, **commands):
    for node_id, known in commands.items():
        abilities.hear(node_id, known)


def test_a_command_of_all_voters_is_appended_and_one_that_a_voter_lacks_is_not(proposals, abilities, raft):
    hear(abilities, a=NEW, c=OLD)
    proposals.submit([payload(1), payload(2, version=2), payload(3, "shop.refund")], 10.0, done, now=0.0)
    assert raft.appended == [payload(1)]
    answered = [outcome for _, outcomes in proposals.take_refused() for outcome in outcomes]
    assert [(outcome.key, outcome.status) for outcome in answered] == [
        (payload(2)[KEY], NOT_PROPOSED),
        (payload(3)[KEY], NOT_PROPOSED),
    ]
    name, text = msgspec.msgpack.decode(answered[0].result)
    assert name == "CommandNotSupported"
    assert "'shop.buy' version 2 is not known to c;" in text


def test_it_is_appended_once_the_last_voter_was_upgraded(proposals, abilities, raft, remembered):
    hear(abilities, a=OLD, c=OLD)
    proposals.submit([payload(1, version=2)], 10.0, done, now=0.0)
    assert "a and c" in str(proposals.take_refused())
    hear(abilities, a=NEW, c=NEW)
    proposals.submit([payload(2, version=2)], 10.0, done, now=0.0)
    assert raft.appended == [payload(2, version=2)]
    assert remembered[-1] == {"a": NEW, "c": NEW}


def test_what_a_member_said_last_counts_over_a_restart_of_this_node(raft):
    abilities = Abilities(raft, Monitor(), NEW, {"c": OLD})
    assert "not known to c" in abilities.refusal(payload(1, version=2))
    assert abilities.refusal(payload(1)) == ""


def test_a_voter_that_was_never_heard_holds_nothing_up(abilities):
    assert abilities.refusal(payload(1, version=2)) == ""


def test_a_learner_does_not_count_until_it_votes(raft, abilities):
    hear(abilities, a=NEW, c=NEW, d=OLD)
    servers = {name: Server("") for name in "abcd"}
    raft.configuration = Configuration("", servers, ("a", "b", "c"), learners=("d",))
    assert abilities.refusal(payload(1, version=2)) == ""
    raft.configuration = Configuration("", servers, ("a", "b", "c", "d"))
    assert "not known to d" in abilities.refusal(payload(1, version=2))


def test_the_voters_on_the_way_out_of_a_change_count_too(raft, abilities):
    hear(abilities, a=NEW, c=OLD)
    servers = {name: Server("") for name in "abc"}
    raft.configuration = Configuration("", servers, ("a", "b"), outgoing=("a", "b", "c"))
    assert "not known to c" in abilities.refusal(payload(1, version=2))


def test_a_command_that_only_an_app_process_has_is_refused(abilities):
    assert "not known to a and b and c" not in abilities.refusal(payload(1, "shop.newest"))
    assert "'shop.newest' version 1 is not known to b" in abilities.refusal(payload(1, "shop.newest"))


def test_transactions_pass_and_what_is_no_command_does_not(abilities):
    assert abilities.refusal(client_payload(TRANSACTION, SESSION, 1, 0, b"anything")) == ""
    assert "can be decoded" in abilities.refusal(client_payload(COMMAND, SESSION, 1, 0, b"\x01"))


def test_a_leader_refuses_forwarded_ones_by_key_and_does_nothing_with_the_rest(proposals, abilities, raft):
    hear(abilities, a=NEW, c=OLD)
    response = proposals.propose_forwarded(ForwardProposals(1, "c", "b", 5, [payload(1), payload(2, version=2)]), 0.0)
    assert (response.first_index, response.reason, response.keys) == (0, "unsupported", [payload(2)[KEY]])
    assert raft.appended == []


def test_who_forwarded_them_answers_the_refused_and_sends_the_rest_again(proposals, raft):
    raft.follow("a", 2)
    proposals.submit([payload(1), payload(2, version=2)], 10.0, done, now=0.0)
    request = proposals.take_forward("a")
    key = payload(2)[KEY]
    response = ForwardResponse(2, "a", "b", request.request_id, 0, "a", "unsupported", [key], "c lacks it")
    [(_, [outcome])] = proposals.forward_answered(response, 0.1)
    assert (outcome.key, outcome.status) == (key, NOT_PROPOSED)
    assert msgspec.msgpack.decode(outcome.result) == ["CommandNotSupported", "c lacks it"]
    assert proposals.take_forward("a").payloads == [payload(1)]
    proposals.expire(now=10.0)
    assert len(proposals) == 0


def test_status_names_what_a_member_lacks(abilities):
    hear(abilities, c=OLD)
    assert abilities.lacking("c") == ["shop.buy version 2", "shop.refund version 1"]
    assert abilities.lacking("a") == []


def test_a_command_with_an_idempotency_key_is_appended_only_where_every_voter_heeds_keys(raft):
    heeds = {IDEMPOTENCY_KEYS[0]: [IDEMPOTENCY_KEYS[1]]}
    abilities = Abilities(raft, Monitor(), NEW | heeds, {})
    keyed = client_payload(
        COMMAND, SESSION, 1, 0, msgspec.msgpack.encode(["shop.buy", 1, {"item": 3}, ["", "key", b"d" * 16]])
    )
    hear(abilities, a=NEW | heeds, c=NEW)
    assert abilities.refusal(payload(2)) == ""
    assert "idempotency keys of commands are not known to c" in abilities.refusal(keyed)
    hear(abilities, c=NEW | heeds)
    assert abilities.refusal(keyed) == ""
    unknown = client_payload(COMMAND, SESSION, 3, 0, msgspec.msgpack.encode(["shop.buy", 1, {}, None, "more"]))
    assert "no command that can be decoded" in abilities.refusal(unknown)
