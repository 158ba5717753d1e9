"""Bugs of raftlog that the simulation found, each as small as it could be made."""

import random

from raftlog.consensus.entries import NO_OP_PAYLOAD, EntryBatch, Run
from raftlog.consensus.messages import AppendEntries, ReadIndexResponse
from raftlog.runtime.election_timer import count_arrivals
from raftlog.storage import open_storage
from raftlog.testing.disk import SimulatedDisk
from raftlog.testing.simulation import Options, Simulation


def no_ops(first_index, last_index, term):
    count = last_index - first_index + 1
    return EntryBatch(first_index, [Run(count, term, 1)], [NO_OP_PAYLOAD] * count)


def test_a_read_over_a_truncation_into_a_sealed_segment_goes_on_in_the_next_one():
    """Seed 70 of the first version: "a batch ends before the next one begins", of a log that was whole.

    The footer of a sealed segment lists batches that were cut off after it was sealed; a read that went through
    them took them for damage.
    """
    storage = open_storage("/node", node_id="n1", filesystem=SimulatedDisk(random.Random(1)), segment_bytes=4096)
    log = storage.log
    index = 1
    while log._view.open_sequence == 1:
        log.append(no_ops(index, index, 1))
        index += 1
    log.truncate_from(3)
    log.append(no_ops(3, 5, 2))
    batch = log.read(1, 5, 1 << 20)
    assert (batch.first_index, batch.last_index) == (1, 5)
    assert [batch.term_at(i) for i in range(1, 6)] == [1, 1, 2, 2, 2]


def test_a_deposed_leader_that_campaigns_does_not_hold_up_its_followers_election_timer():
    """Seed 21: n3 stepped down in term 8 and asked for votes; n5, whose leader of term 8 it was, took every request
    for a sign of life, refused the vote, and never campaigned. With two of five nodes wiped, that was for ever."""
    simulation = Simulation(Options(1, nodes=3))
    for node in simulation.nodes_in_order:
        node.start()
    while simulation.leader() is None or any(not node.raft.leader_id for node in simulation.nodes_in_order):
        simulation._next()
    leader = simulation.leader()
    follower = simulation.nodes[leader.peers[0]]
    follower.state.arrived(ReadIndexResponse(1, leader.node_id, follower.node_id, 1, 0), 1e9)
    heard_at = follower.raft.last_heard_at
    count_arrivals(follower.state)
    assert follower.raft.last_heard_at < 1e9
    heartbeat = AppendEntries(1, leader.node_id, follower.node_id, 0, 0, EntryBatch(1, [], []), 0, 1, "")
    follower.state.arrived(heartbeat, heard_at + 0.1)
    count_arrivals(follower.state)
    assert follower.raft.last_heard_at == heard_at + 0.1
