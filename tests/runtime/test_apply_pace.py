"""What nobody waits for is gathered; who waits, waits for nothing else."""

import queue

import pytest

from raftlog.runtime import apply_pace, clock
from raftlog.runtime.apply_pace import LONGEST_REST, NOBODY_WAITS, NOW, ApplyPace
from tests.runtime.cluster import Cluster, RecordingMachine

ENDED = 100.0


def pace(took=0.002, max_entries=256):
    found = ApplyPace()
    found.max_entries = max_entries
    found.ended(ENDED - took, ENDED)
    return found


@pytest.mark.parametrize(
    ("count", "callers", "is_awaited", "due_at"),
    [
        (1, 0, False, ENDED + NOBODY_WAITS),
        (255, 0, False, ENDED + NOBODY_WAITS),
        (256, 0, False, NOW),  # a whole batch
        (1, 0, True, NOW),  # a read at an index, a turn, a pin
        (1, 1, False, NOW),  # the only caller
        (3, 2, False, NOW),  # all callers, and entries of other nodes
        (2, 3, False, ENDED + 0.002),  # one is still on its way: as long as the last batch took
        (2, 3, True, NOW),
    ],
)
def test_when_entries_are_due(count, callers, is_awaited, due_at):
    assert pace().due_at(count, callers, is_awaited=is_awaited) == due_at


def test_a_long_batch_is_followed_by_a_short_rest():
    assert pace(took=30.0).due_at(1, 2, is_awaited=False) == ENDED + LONGEST_REST


def test_the_first_entries_and_a_machine_that_gathers_nothing_wait_for_nothing():
    fresh = ApplyPace()
    fresh.max_entries = 256
    assert fresh.due_at(1, 0, is_awaited=False) == NOW
    assert pace(max_entries=0).due_at(1, 0, is_awaited=False) == NOW
    assert pace(max_entries=0).next_look(ENDED) == float("inf")


@pytest.mark.parametrize(
    ("now", "look"),
    [(0.0, 0.002), (0.001, 0.002), (0.002, NOBODY_WAITS), (0.009, NOBODY_WAITS), (0.011, float("inf"))],
)
def test_when_the_thread_looks_by_itself(now, look):
    assert pace().next_look(ENDED + now) == pytest.approx(ENDED + look)


class GatheringMachine(RecordingMachine):
    max_entries = 256
    gathers = True

    def __init__(self):
        super().__init__()
        self.batches = 0

    def apply(self, batch):
        self.batches += 1
        return super().apply(batch)


class GatheringCluster(Cluster):
    def make_machine(self, node_id):
        return GatheringMachine()


def test_followers_gather_and_the_callers_node_answers_at_once(monkeypatch):
    monkeypatch.setattr(apply_pace, "NOBODY_WAITS", 0.2)
    with GatheringCluster(3) as cluster:
        leader, follower = cluster.leader(), cluster.followers()[0]
        cluster.propose(leader, cluster.payloads(1))  # what the election brought is applied before it
        before = {node_id: machine.batches for node_id, machine in cluster.machines.items()}
        began = clock.monotonic()
        for payload in cluster.payloads(40):
            cluster.propose(leader, [payload])
        took = clock.monotonic() - began
        assert cluster.machines[leader].batches - before[leader] == 40
        assert cluster.machines[follower].batches - before[follower] <= took / 0.2 + 2
        [payload] = cluster.payloads(1)
        cluster.propose(follower, [payload])
        assert payload in cluster.machines[follower].applied
        machines = cluster.machines.values()
        cluster.wait(lambda: len({len(machine.applied) for machine in machines}) == 1, "all apply everything")


def test_a_read_at_an_index_does_not_wait_for_the_gathering(monkeypatch):
    monkeypatch.setattr(apply_pace, "NOBODY_WAITS", 3600.0)
    with GatheringCluster(3) as cluster:
        leader, follower = cluster.leader(), cluster.followers()[0]
        for payload in cluster.payloads(5):
            cluster.propose(leader, [payload])
        index = cluster.machines[leader].last_applied
        answered = queue.SimpleQueue()
        cluster.servers[follower].state.read(clock.monotonic() + 10, lambda *answer: answered.put(answer))
        read_index, reason = answered.get(timeout=20)
        assert not reason
        assert cluster.machines[follower].last_applied >= read_index >= index
