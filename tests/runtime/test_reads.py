"""Linearizable reads that wait on a node: how each ends."""

import pytest

from raftlog.runtime.measures import Histogram
from raftlog.runtime.reads import RETRY_INTERVAL, Reads


class FakeRaft:
    def __init__(self):
        self.last_applied = 10
        self.asked = []

    def request_read(self, request_id, now):
        self.asked.append(request_id)


@pytest.fixture
def raft():
    return FakeRaft()


@pytest.fixture
def reads(raft):
    return Reads(raft, Histogram())


def done(index, reason):
    """Never called here: what is to be called is returned."""


def test_one_whose_index_is_not_applied_ends_at_its_deadline(reads):
    reads.request(5.0, done, 1.0)
    reads.request(3.0, done, 1.0)
    assert reads.confirmed([(1, 12), (2, 11)], 2.0) == []
    assert reads.next_deadline == 3.0
    [(_, index, reason)] = reads.expire(3.0)
    assert (index, "entry 10" in reason) == (0, True)
    assert reads.next_deadline == 5.0


def test_one_whose_index_is_applied_in_time_is_answered(reads, raft):
    reads.request(5.0, done, 1.0)
    reads.confirmed([(1, 12)], 2.0)
    raft.last_applied = 12
    assert reads.applied() == [(done, 12, "")]
    assert reads.next_deadline == float("inf")
    assert reads.expire(9.0) == []


def test_the_time_to_its_confirmation_is_measured_from_when_it_came():
    histogram = Histogram()
    raft = FakeRaft()
    reads = Reads(raft, histogram)
    reads.request(5.0, done, 1.0)
    reads.confirmed([(1, 0)], 1.5)  # refused: it is asked again
    assert histogram.count == 0
    assert reads.expire(1.5 + RETRY_INTERVAL) == []
    assert raft.asked == [1, 2]
    assert reads.confirmed([(2, 10)], 2.0) == [(done, 10, "")]
    assert (histogram.count, histogram.total) == (1, 1.0)
