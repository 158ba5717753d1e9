"""Reads of one process share questions to the node, and never one that was sent before they asked."""

import asyncio
import threading

import pytest

from raftlog.exceptions import NodeUnavailable, ReadNotConfirmed
from raftlog.replication.read_rounds import ReadRounds
from raftlog.runtime import clock


class Node:
    """Implements what ReadRounds needs of ports.Proposer; answers when the test says so."""

    def __init__(self):
        self.asked = []
        self.unavailable = False

    def read(self, timeout, done):
        if self.unavailable:
            raise NodeUnavailable("the node is not there")
        self.asked.append((timeout, done))

    def answer(self, index, reason=""):
        self.asked.pop(0)[1](index, reason)


@pytest.fixture
def node():
    return Node()


def test_who_asks_while_a_question_is_under_way_gets_the_answer_to_the_next(node):
    rounds, answers = ReadRounds(node), []
    rounds.ask(5, lambda answer: answers.append(("first", answer.up_to)))
    began = clock.monotonic()
    for name in ("second", "third"):
        rounds.ask(5, lambda answer, name=name: answers.append((name, answer.up_to)))
    assert len(node.asked) == 1
    node.answer(7)  # it was sent before the others asked: it says nothing to them
    assert answers == [("first", 7)]
    assert rounds.newest.as_of <= began
    assert len(node.asked) == 1
    node.answer(9)
    assert answers == [("first", 7), ("second", 9), ("third", 9)]
    assert rounds.newest.up_to == 9
    assert rounds.newest.as_of >= began
    assert node.asked == []


def test_a_refusal_is_raised_by_each_that_shared_the_question_and_the_next_asks_anew(node):
    rounds, answers = ReadRounds(node), []
    rounds.ask(5, lambda answer: None)
    for _ in range(2):
        rounds.ask(5, answers.append)
    node.answer(3)
    node.answer(0, "no leader confirmed its leadership in time")
    assert [type(answer) for answer in answers] == [ReadNotConfirmed, ReadNotConfirmed]
    assert "no leader confirmed" in str(answers[0])
    assert rounds.newest.up_to == 3
    rounds.ask(5, answers.append)
    assert len(node.asked) == 1


def test_the_longest_patience_of_those_that_share_a_question_is_its_time_limit(node):
    rounds = ReadRounds(node)
    rounds.ask(1, lambda answer: None)
    for timeout in (2, 30, 3):
        rounds.ask(timeout, lambda answer: None)
    node.answer(1)
    assert 29 < node.asked[0][0] <= 30


def test_a_node_that_never_answers_holds_up_nobody_for_longer_than_his_own_time(node):
    rounds = ReadRounds(node)
    rounds.ask(0.001, lambda answer: None)
    rounds._asked.overdue_at = clock.monotonic()
    with pytest.raises(ReadNotConfirmed, match=r"confirmed nothing within 0\.01 s"):
        rounds.wait(0.01)
    assert len(node.asked) == 2  # the first is overdue, and nobody waits for it any more
    node.answer(5)  # the first one's, late: true all the same, but nothing waits for it
    assert len(node.asked) == 1
    assert rounds.newest.up_to == 5


def test_an_unavailable_node_is_raised_by_the_one_who_asked(node):
    node.unavailable = True
    rounds = ReadRounds(node)
    for _ in range(2):
        with pytest.raises(NodeUnavailable, match="not there"):
            rounds.wait(5)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_an_event_loop_goes_on_while_the_way_to_the_node_is_being_made():
    connected = threading.Event()

    class Stopped:
        def read(self, timeout, done):
            connected.wait(10)
            raise NodeUnavailable("no answer within the time")

    async def read():
        with pytest.raises(ReadNotConfirmed, match=r"within 0\.01 s"):
            await ReadRounds(Stopped()).wait_async(0.01)
        assert not connected.is_set()
        connected.set()

    asyncio.run(read())


def test_async_callers_wait_without_blocking(node):
    rounds = ReadRounds(node)

    async def read_twice():
        first = asyncio.create_task(rounds.wait_async(5))
        await until(lambda: node.asked)
        second = asyncio.create_task(rounds.wait_async(5))
        await until(lambda: rounds._waiting)
        node.answer(1)
        node.answer(2)
        with pytest.raises(ReadNotConfirmed):
            await rounds.wait_async(0.01)
        return await first, await second

    assert [confirmed.up_to for confirmed in asyncio.run(read_twice())] == [1, 2]


def test_many_threads_share_few_questions():
    class Counting(Node):
        committed = count = 0

        def read(self, timeout, done):
            self.count += 1
            index = Counting.committed
            threading.Timer(0.002, done, [index, ""]).start()

    node = Counting()
    rounds, stale = ReadRounds(node), []

    def read():
        for _ in range(20):
            Counting.committed = before = Counting.committed + 1
            if rounds.wait(10).up_to < before:
                stale.append(before)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stale == []
    assert node.count < 8 * 20
