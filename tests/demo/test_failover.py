"""A proposal that one node leaves unanswered is sent, unchanged, through the next."""

import pytest

from demo_site.demo import failover as module
from demo_site.demo.failover import Failover
from raftlog.consensus.entries import COMMAND, KEY, client_payload
from raftlog.exceptions import NodeUnavailable
from raftlog.runtime.ports import APPLIED, FAILED, NOT_PROPOSED, UNKNOWN, Outcome

PAYLOAD = client_payload(COMMAND, bytes(16), 1, 0, b"x")


class Node:
    """Answers with these statuses, one after the other; None: it cannot be reached."""

    def __init__(self, clock, *statuses, takes=0.0):
        self.clock, self.statuses, self.takes = clock, list(statuses), takes
        self.seen = []

    def propose(self, payloads, timeout, done):
        self.clock[0] += min(self.takes, timeout)
        self.seen += payloads
        status = self.statuses.pop(0)
        if status is None:
            raise NodeUnavailable("down")
        done([Outcome(payload[KEY], status, 7, b"") for payload in payloads])


@pytest.fixture
def clock(monkeypatch):
    """Moves when a node takes time, and when the proposer sleeps."""
    now = [0.0]
    monkeypatch.setattr(module.clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.clock, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def propose(nodes, first=0, timeout=30.0):
    found = []
    proposer = Failover(nodes, first)
    proposer.propose([PAYLOAD], timeout, found.extend)
    return proposer, found[0].status


def test_a_node_that_is_down_or_does_not_know_is_followed_by_the_next(clock):
    a, b, c = Node(clock, None), Node(clock, UNKNOWN, takes=9.0), Node(clock, APPLIED, FAILED)
    proposer, status = propose([a, b, c])
    assert status == APPLIED
    assert a.seen == b.seen == c.seen == [PAYLOAD]
    assert clock[0] < 2 * module.ATTEMPT_TIMEOUT
    found = []
    proposer.propose([PAYLOAD], 30.0, found.extend)  # it stays with the one that answered
    assert found[0].status == FAILED


def test_a_writer_begins_with_its_own_node(clock):
    a, b = Node(clock), Node(clock, APPLIED)
    assert propose([a, b], first=3)[1] == APPLIED
    assert a.seen == []


def test_where_nobody_can_be_reached_it_ends_in_time_and_nothing_was_done(clock):
    assert propose([Node(clock, *[None] * 1000)], timeout=5.0)[1] == NOT_PROPOSED
    assert clock[0] <= 5.0 + module.PAUSE


def test_one_attempt_in_doubt_leaves_all_in_doubt(clock):
    nodes = [Node(clock, UNKNOWN, *[NOT_PROPOSED] * 1000, takes=1.0), Node(clock, *[None] * 1000)]
    assert propose(nodes, timeout=5.0)[1] == UNKNOWN
