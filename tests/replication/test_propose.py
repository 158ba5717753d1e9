"""Proposing: results, errors, unknown outcomes, sessions that end, threads, the event loop, forks."""

import asyncio
import os
import threading
import warnings

import pytest
from django.db import IntegrityError, transaction
from django.test import override_settings

import raftlog
from raftlog.consensus.entries import COMMAND, OPEN_SESSION, client_header
from raftlog.exceptions import (
    CommandFailed,
    InsideTransaction,
    InvalidArguments,
    NodeUnavailable,
    NoLeader,
    NotProposed,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    SessionExpired,
)
from raftlog.replication import client_session, propose
from raftlog.replication.context import CommandContext
from raftlog.replication.registry import Command, registry
from raftlog.replication.sessions import SESSION_TTL
from tests.replication.node import OneNode
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item


@pytest.fixture
def node(sqlite, monkeypatch):
    monkeypatch.setattr(propose, "ANSWER_GRACE", 0.0)
    before = propose._process.factory
    made = OneNode()
    propose.set_proposer_factory(lambda: made)
    yield made
    made.stop()
    propose.set_proposer_factory(before)


def is_command(payloads):
    return payloads[0][0] == COMMAND


def stock():
    return Item.objects.get(name="nail").stock


@pytest.fixture
def nails(node):
    commands.add_item.propose(name="nail", stock=100)
    return node


def test_a_proposal_returns_the_result_and_the_next_read_sees_it(node):
    pk = commands.add_item.propose(name="nail", stock=5)
    assert Item.objects.get(pk=pk).stock == 5
    assert commands.take.propose(name="nail", quantity=2) == 3


@pytest.mark.parametrize(
    ("command", "arguments", "error", "says"),
    [
        (commands.take, {"name": "nail", "quantity": 1000}, commands.OutOfStock, "^100 left$"),
        (commands.add_item, {"name": "nail"}, IntegrityError, "UNIQUE constraint failed"),
        (commands.fail, {"kind": "value", "text": "no good"}, CommandFailed, "^ValueError: no good$"),
        (commands.take, {"name": "nail"}, InvalidArguments, "argument 'quantity' is missing"),
        (commands.take, {"name": "x" * (2 << 20), "quantity": 1}, PayloadTooLarge, "the limit is 1048576"),
    ],
    ids=["declared", "integrity", "undeclared", "arguments", "size"],
)
def test_a_failure_reaches_the_caller_as_what_it_is(nails, command, arguments, error, says):
    before = len(nails.proposed)
    with pytest.raises(error, match=says):
        command.propose(**arguments)
    assert (len(nails.proposed) > before) == (error not in (InvalidArguments, PayloadTooLarge))
    assert stock() == 100


def test_a_declared_exception_with_arguments_of_its_own_keeps_its_text(node):
    class TwoArguments(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def act(ctx):
        raise TwoArguments(1, 2)

    command = Command(act, name="two.arguments", raises=[TwoArguments])
    registry.add(command)
    try:
        with pytest.raises(TwoArguments, match=r"^1 and 2$"):
            command.propose()
    finally:
        registry.remove(command)


# Refused at once


def test_inside_a_transaction_a_proposal_is_refused_with_the_reason(nails):
    before = len(nails.proposed)
    with transaction.atomic(), pytest.raises(InsideTransaction, match=r"open transaction on DATABASES\['default'\]"):
        commands.take.propose(name="nail", quantity=1)
    with transaction.atomic(), pytest.raises(InsideTransaction):
        raftlog.replication.propose.propose_many([(commands.take, {"name": "nail", "quantity": 1})])
    assert len(nails.proposed) == before


def test_inside_a_command_a_proposal_is_refused_with_the_reason(node):
    def outer(ctx):
        return commands.add_item.propose(name="nail")

    command = Command(outer, name="outer")
    registry.add(command)
    try:
        with pytest.raises(CommandFailed, match=r"InsideTransaction: .*call the other command's function"):
            command.propose()
    finally:
        registry.remove(command)


def test_without_a_node_nothing_is_proposed(node):
    propose.set_proposer_factory(None)
    with pytest.raises(NodeUnavailable, match="INSTALLED_APPS"):
        commands.add_item.propose(name="nail")
    propose.set_proposer_factory(lambda: node)
    node.unavailable = True
    with pytest.raises(NodeUnavailable, match="not there"):
        commands.add_item.propose(name="nail")
    node.unavailable = False
    assert commands.add_item.propose(name="nail")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NoLeader", NoLeader),
        ("Overloaded", Overloaded),
        ("NodeUnavailable", NodeUnavailable),
        ("NotLeader", NotProposed),
        ("Unheard", NotProposed),
        ("CommandFailed", NotProposed),
    ],
)
def test_what_was_not_proposed_says_why(nails, name, kind):
    nails.refuse = lambda payloads: name
    with pytest.raises(kind, match="as told") as caught:
        commands.take.propose(name="nail", quantity=1)
    assert type(caught.value) is kind
    nails.refuse = lambda payloads: ""
    assert commands.take.propose(name="nail", quantity=1) == 99


def test_a_session_that_cannot_be_opened_is_no_doubt_about_the_command(node):
    node.answer_unknown = lambda payloads: True
    with pytest.raises(NoLeader, match="no session could be opened within"):
        commands.add_item.with_options(timeout=0.5).propose(name="nail")
    node.answer_unknown = lambda payloads: False
    assert commands.add_item.propose(name="nail")


# Unknown outcomes


def test_a_lost_answer_is_an_unknown_outcome_that_can_be_asked_for(nails):
    nails.lose_answer = is_command
    with pytest.raises(OutcomeUnknown) as caught:
        commands.take.with_options(timeout=0.05).propose(name="nail", quantity=1)
    nails.lose_answer = lambda payloads: False
    nails.settle()
    proposal_id = caught.value.proposal_id
    assert proposal_id in str(caught.value)
    assert raftlog.outcome(proposal_id) == 99
    assert raftlog.outcome(proposal_id, timeout=5) == 99
    assert commands.take.with_options(proposal_id=proposal_id).propose(name="nail", quantity=1) == 99
    assert stock() == 99, "trying again under the same id applied nothing"
    assert commands.take.propose(name="nail", quantity=1) == 98


def test_an_attempt_that_was_lost_is_made_by_trying_again_under_its_id(nails):
    nails.answer_unknown = is_command
    with pytest.raises(OutcomeUnknown, match="no answer") as caught:
        commands.take.propose(name="nail", quantity=1)
    nails.answer_unknown = lambda payloads: False
    with pytest.raises(OutcomeUnknown, match="not applied on this node so far"):
        raftlog.outcome(caught.value.proposal_id)
    again = commands.take.with_options(proposal_id=caught.value.proposal_id)
    assert again.propose(name="nail", quantity=1) == 99
    assert again.propose(name="nail", quantity=1) == 99


def test_a_failure_can_be_asked_for_too(nails):
    nails.lose_answer = is_command
    with pytest.raises(OutcomeUnknown) as caught:
        commands.take.with_options(timeout=0.05).propose(name="nail", quantity=1000)
    nails.settle()
    with pytest.raises(commands.OutOfStock, match="100 left"):
        raftlog.outcome(caught.value.proposal_id)


def test_an_answer_that_comes_late_is_kept(nails):
    nails.hold = True
    with pytest.raises(OutcomeUnknown) as caught:
        commands.take.with_options(timeout=0.05).propose(name="nail", quantity=1)
    nails.release()
    nails.settle()
    assert propose._process.session.late
    assert raftlog.outcome(caught.value.proposal_id) == 99


def test_what_is_in_doubt_is_not_acknowledged(nails):
    nails.answer_unknown = is_command
    with pytest.raises(OutcomeUnknown) as caught:
        commands.take.propose(name="nail", quantity=1)
    nails.answer_unknown = lambda payloads: False
    for _ in range(3):
        commands.take.propose(name="nail", quantity=1)
    doubtful = int(caught.value.proposal_id.partition(":")[2])
    assert client_header(nails.proposed[-1]).acknowledged_below == doubtful
    commands.take.with_options(proposal_id=caught.value.proposal_id).propose(name="nail", quantity=1)
    commands.take.propose(name="nail", quantity=1)
    last = client_header(nails.proposed[-1])
    assert last.acknowledged_below == last.sequence
    assert stock() == 95


def test_doubts_are_bounded(nails, monkeypatch):
    monkeypatch.setattr(client_session, "MAX_WINDOW", 3)
    nails.answer_unknown = is_command
    ids = []
    for _ in range(3):
        with pytest.raises(OutcomeUnknown) as caught:
            commands.take.propose(name="nail", quantity=1)
        ids.append(caught.value.proposal_id)
    nails.answer_unknown = lambda payloads: False
    for _ in range(3):
        commands.take.propose(name="nail", quantity=1)
    with pytest.raises(SessionExpired, match=r"is not kept: it was acknowledged"):
        raftlog.outcome(ids[0])
    with pytest.raises(SessionExpired, match="not known any more"):
        commands.take.with_options(proposal_id=ids[0]).propose(name="nail", quantity=1)
    assert stock() == 97


def test_proposals_without_an_answer_are_bounded(nails, monkeypatch):
    monkeypatch.setattr(client_session, "MAX_WINDOW", 3)
    nails.hold = True
    calls = [(commands.take, {"name": "nail", "quantity": 1})]
    threads = [threading.Thread(target=propose.propose_many, args=(calls,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(nails.held) < 3:
        pass
    with pytest.raises(Overloaded, match="3 proposals of this process wait for an answer, the limit is 3"):
        commands.take.propose(name="nail", quantity=1)
    nails.release()
    for thread in threads:
        thread.join(10)
    assert commands.take.propose(name="nail", quantity=1) == 96


@pytest.mark.parametrize("proposal_id", ["", "x", "00:1", f"{'0' * 32}:0", f"{'0' * 32}:-1", f"{'0' * 32}:{2**63}"])
def test_what_is_no_proposal_id(node, proposal_id):
    with pytest.raises(ValueError, match="is no proposal id"):
        raftlog.outcome(proposal_id)


def test_two_copies_in_the_log_are_one_effect(nails):
    nails.hold = True
    results = []
    thread = threading.Thread(target=lambda: results.append(commands.take.propose(name="nail", quantity=1)))
    thread.start()
    while not nails.held:
        pass
    nails.release(twice=True)
    thread.join(10)
    nails.settle()
    assert results == [99]
    assert stock() == 99


# Sessions


def test_one_session_serves_a_process_and_acknowledges(nails):
    for _ in range(3):
        commands.take.propose(name="nail", quantity=1)
    headers = [client_header(payload) for payload in nails.proposed]
    assert [header.kind for header in headers] == [OPEN_SESSION, *[COMMAND] * 4]
    assert len({header.session for header in headers}) == 1
    assert [header.sequence for header in headers] == [0, 1, 2, 3, 4]
    assert [header.acknowledged_below for header in headers[1:]] == [1, 2, 3, 4]


def test_an_expired_session_is_replaced_and_the_command_applied_once(nails):
    nails.log_time += SESSION_TTL + 1
    assert commands.take.propose(name="nail", quantity=1) == 99
    assert len({client_header(payload).session for payload in nails.proposed}) == 2
    assert commands.take.propose(name="nail", quantity=1) == 98


def test_many_proposals_of_an_expired_session_are_made_under_a_new_one(nails):
    nails.log_time += SESSION_TTL + 1
    assert propose.propose_many([(commands.take, {"name": "nail", "quantity": 1})] * 3) == [99, 98, 97]
    assert stock() == 97


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_that_is_none(nails, timeout):
    with pytest.raises(ValueError, match="must be above 0 and at most 86400 seconds"):
        commands.take.with_options(timeout=timeout).propose(name="nail", quantity=1)


def test_a_proposal_of_an_expired_session_is_not_tried_again_by_itself(nails):
    """It may have been applied before the session ended: only its caller can say what to do."""
    nails.answer_unknown = is_command
    with pytest.raises(OutcomeUnknown) as caught:
        commands.take.propose(name="nail", quantity=1)
    nails.answer_unknown = lambda payloads: False
    nails.log_time += SESSION_TTL + 1
    with pytest.raises(SessionExpired, match="is not known any more"):
        commands.take.with_options(proposal_id=caught.value.proposal_id).propose(name="nail", quantity=1)
    assert stock() == 100


# Many, threads, the event loop, forks


def test_many_are_pipelined_and_each_has_its_own_end(nails, monkeypatch):
    monkeypatch.setattr(propose, "CHUNK", 4)
    calls = [(commands.take, {"name": "nail", "quantity": quantity}) for quantity in (1, 2, 1000, 3, 4, 1000, 5, 6, 7)]
    results = propose.propose_many(calls)
    assert [result if isinstance(result, int) else type(result).__name__ for result in results] == [
        *(99, 97, "OutOfStock", 94, 90, "OutOfStock", 85, 79, 72)
    ]
    assert propose.propose_many([]) == []
    with pytest.raises(InvalidArguments):
        propose.propose_many([(commands.take, {})])


def test_threads_share_a_session(nails):
    results = []

    def work():
        for _ in range(5):
            results.append(commands.take.propose(name="nail", quantity=1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == list(range(60, 100))


def test_the_event_loop_is_not_blocked(nails):
    async def main():
        ticks = 0
        nails.hold = True

        async def tick():
            nonlocal ticks
            while nails.hold:
                ticks += 1
                if ticks == 5:
                    nails.release()
                await asyncio.sleep(0)

        first, second, _ = await asyncio.gather(
            commands.take.apropose(name="nail", quantity=1), commands.take.apropose(name="nail", quantity=1), tick()
        )
        with pytest.raises(commands.OutOfStock):
            await commands.take.apropose(name="nail", quantity=1000)
        return sorted([first, second]), ticks

    propose.set_proposer_factory(lambda: nails)  # a session that is not open yet
    results, ticks = asyncio.run(main_with_open(main, nails))
    assert results == [98, 99]
    assert ticks >= 5


async def main_with_open(main, node):
    await commands.get_or_add.apropose(name="opens the session")
    return await main()


def test_an_asynchronous_proposal_can_time_out_and_be_made_again(nails):
    async def main():
        nails.lose_answer = is_command
        with pytest.raises(OutcomeUnknown) as caught:
            await commands.take.with_options(timeout=0.05).apropose(name="nail", quantity=1)
        nails.lose_answer = lambda payloads: False
        again = commands.take.with_options(proposal_id=caught.value.proposal_id)
        return await again.apropose(name="nail", quantity=1)

    assert asyncio.run(main()) == 99


@pytest.fixture
def connecting(nails, monkeypatch):
    """Each proposal waits for a connection until the loop has turned; yields the threads in which it waited."""
    threads, turned, propose_now = [], threading.Event(), nails.propose

    def connect_and_propose(payloads, timeout, done):
        threads.append(threading.current_thread())
        assert turned.wait(20), "the event loop stood still"
        propose_now(payloads, timeout, done)

    asyncio.run(main_with_open(lambda: asyncio.sleep(0), nails))
    monkeypatch.setattr(nails, "propose", connect_and_propose)
    monkeypatch.setattr(nails, "may_block", lambda: True, raising=False)
    return threads, turned


def test_what_connects_first_does_not_hold_up_the_event_loop(nails, connecting):
    threads, turned = connecting

    async def main():
        task = asyncio.create_task(commands.take.apropose(name="nail", quantity=1))
        while not threads:
            await asyncio.sleep(0)
        turned.set()
        return await task

    assert asyncio.run(main()) == 99
    assert threading.current_thread() not in threads


def test_cancelled_while_it_connects_it_is_left_in_doubt(nails, connecting):
    threads, turned = connecting

    async def main():
        task = asyncio.create_task(commands.take.apropose(name="nail", quantity=1))
        while not threads:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        nails.hold = True
        turned.set()
        while not propose._process.session._doubtful:
            await asyncio.sleep(0)

    asyncio.run(main())
    nails.release()
    nails.settle()
    assert not propose._process.session._doubtful
    assert not propose._process.session._waiting


def test_a_cancelled_proposal_is_left_in_doubt(nails):
    async def main():
        nails.hold = True
        task = asyncio.create_task(commands.take.apropose(name="nail", quantity=1))
        while not nails.held:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert list(propose._process.session._doubtful) == [2]
    nails.release()
    nails.settle()
    assert not propose._process.session._doubtful


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_session_of_its_own(nails):
    assert propose._process.session is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads; the child touches nothing of theirs
        child = os.fork()
    if not child:
        os._exit(propose._process.session is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    propose._process.forked()
    assert commands.take.propose(name="nail", quantity=1) == 99
    assert len({client_header(payload).session for payload in nails.proposed}) == 2


def test_the_limits_come_from_the_settings(node):
    with override_settings(RAFTLOG={"MAX_COMMAND_BYTES": 1024, "PROPOSAL_TIMEOUT": 3}):
        assert propose.limits() == ("default", 3, 1024)
        with pytest.raises(PayloadTooLarge, match="the limit is 1024"):
            commands.add_item.propose(name="x" * 1024)
    assert propose.limits().timeout == 10


def test_a_command_needs_no_node_in_a_unit_test(node):
    assert commands.add_item(CommandContext(index=7), name="screw") == 7
    assert not node.proposed
