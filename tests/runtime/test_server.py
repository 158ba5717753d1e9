"""Whole nodes with real threads, in one process: elections, replication, and the loss of leaders."""

import threading

from raftlog.consensus.entries import CLIENT_KINDS
from raftlog.exceptions import DiskFull, StorageFailed
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, UNKNOWN
from raftlog.storage.memory import MemoryLog
from tests.runtime.cluster import ELECTION_TIMEOUT, Cluster


def client_entries(machine):
    return [payload for payload in machine.applied if payload[0] in CLIENT_KINDS]


def test_a_single_voter_elects_itself_and_answers():
    with Cluster(1) as cluster:
        [outcome] = cluster.propose("a", cluster.payloads())
        assert outcome.status == APPLIED


def test_any_node_takes_proposals_and_every_node_applies_them_in_one_order():
    with Cluster(3) as cluster:
        cluster.leader()
        sent = []
        for node_id in cluster.ids:
            payloads = cluster.payloads(20)
            sent += payloads
            assert {outcome.status for outcome in cluster.propose(node_id, payloads)} == {APPLIED}
        machines = cluster.machines.values()
        cluster.wait(lambda: all(len(client_entries(m)) >= len(sent) for m in machines), "all apply everything")
        assert client_entries(cluster.machines["a"]) == sent
        assert len({tuple(machine.applied) for machine in machines}) == 1


def test_a_callers_own_node_has_applied_its_proposal_when_it_is_answered():
    with Cluster(3) as cluster:
        follower = cluster.followers()[0]
        for payload in cluster.payloads(20):
            cluster.propose(follower, [payload])
            assert payload in cluster.machines[follower].applied


def test_a_killed_leader_is_replaced_and_waiting_proposals_go_to_the_next_one():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        survivor = cluster.followers()[0]
        cluster.propose(survivor, cluster.payloads(5))
        cluster.network.crash(leader)
        assert {o.status for o in cluster.propose(survivor, cluster.payloads(50))} == {APPLIED}


def test_a_leader_cut_off_steps_down_and_its_callers_get_an_answer():
    """Messages are lost, connections stay: nothing but the timers can notice."""
    with Cluster(3) as cluster:
        leader = cluster.leader()
        cluster.network.isolate(leader)
        cut_off_at = clock.monotonic()
        outcomes = []
        answered = threading.Event()

        def done(result):
            outcomes.extend(result)
            answered.set()

        cluster.servers[leader].propose(cluster.payloads(), 60.0, done)
        cluster.wait(lambda: leader not in cluster.leaders(), "the old leader steps down")
        assert clock.monotonic() - cut_off_at < 2 * ELECTION_TIMEOUT + 1.0
        others = [node_id for node_id in cluster.ids if node_id != leader]
        new_leader = cluster.leader(among=others)
        assert cluster.leaders() == [new_leader]
        assert {o.status for o in cluster.propose(new_leader, cluster.payloads(3))} == {APPLIED}
        assert answered.wait(8 * ELECTION_TIMEOUT + 5)
        assert outcomes[0].status == UNKNOWN
        cluster.network.heal()
        cluster.wait(lambda: cluster.raft(leader).last_applied >= 4, "the old leader catches up")


def test_a_follower_that_was_cut_off_catches_up():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        follower = cluster.followers()[0]
        cluster.network.isolate(follower)
        cluster.propose(leader, cluster.payloads(100))
        cluster.network.heal()
        cluster.wait(lambda: len(client_entries(cluster.machines[follower])) == 100, "the follower catches up")


def test_without_a_majority_a_proposal_ends_in_bounded_time_and_says_so():
    with Cluster(3) as cluster:
        survivor = cluster.leader()
        for node_id in cluster.ids:
            if node_id != survivor:
                cluster.network.crash(node_id)
        cluster.wait(lambda: not cluster.leaders() or cluster.leaders() == [], "the leader steps down")
        began = clock.monotonic()
        [outcome] = cluster.propose(survivor, cluster.payloads(), timeout=60.0)
        assert outcome.status == NOT_PROPOSED
        assert b"no majority" in outcome.result
        assert clock.monotonic() - began < 8 * ELECTION_TIMEOUT + 5
        for node_id in cluster.ids:
            cluster.servers[node_id].stop(0.01)


def test_a_read_through_any_node_sees_what_was_answered_before():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        cluster.propose(leader, cluster.payloads(10))
        written = cluster.raft(leader).last_applied
        for node_id in cluster.ids:
            index, reason = cluster.servers[node_id].read_index(5.0)
            assert index >= written, reason
            assert cluster.machines[node_id].last_applied >= written


def test_a_read_on_a_node_that_is_cut_off_is_refused():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        cluster.network.isolate(leader)
        index, reason = cluster.servers[leader].read_index(1.0)
        assert index == 0
        assert reason


def test_a_leader_that_stops_hands_leadership_over_first():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        term = cluster.raft(leader).current_term
        others = [node_id for node_id in cluster.ids if node_id != leader]
        cluster.propose(leader, cluster.payloads(3))
        cluster.servers[leader].stop(5)
        assert cluster.leader(among=others) in others
        assert cluster.raft(others[0]).current_term == term + 1


def test_a_payload_beyond_the_limit_is_refused_and_names_it():
    with Cluster(1) as cluster:
        payload = cluster.payloads()[0] + b"x" * (1 << 20)
        [outcome] = cluster.propose("a", [payload])
        assert outcome.status == NOT_PROPOSED
        assert b"the limit is 1048576" in outcome.result


class Full(MemoryLog):
    """A disk without room while `full` is set."""

    full = False

    def append(self, batch):
        if self.full:
            raise DiskFull("no room")
        super().append(batch)


def test_a_full_disk_refuses_nothing_for_ever():
    with Cluster(3, log_store=Full) as cluster:
        leader = cluster.leader()
        for store in cluster.log_stores.values():
            store.full = True
        answered = threading.Event()
        cluster.servers[leader].propose(cluster.payloads(), 30.0, lambda outcomes: answered.set())
        cluster.wait(lambda: cluster.servers[leader].state.disk_full, "the disk is noticed to be full")
        assert any("disk is full" in problem for problem in cluster.servers[leader].status()["problems"])
        for store in cluster.log_stores.values():
            store.full = False
        assert answered.wait(20)
        assert {o.status for o in cluster.propose(leader, cluster.payloads(3))} == {APPLIED}
        cluster.wait(lambda: not any(s.state.disk_full for s in cluster.servers.values()), "all have room again")


class Broken(MemoryLog):
    """A disk whose syncs fail while `broken` is set."""

    broken = False

    def sync(self):
        if self.broken:
            raise StorageFailed("fdatasync failed: Input/output error")
        super().sync()


def test_a_failed_sync_takes_the_node_down_loudly_and_the_others_go_on():
    with Cluster(3, log_store=Broken, may_die=True) as cluster:
        leader = cluster.leader()
        cluster.log_stores[leader].broken = True
        others = [node_id for node_id in cluster.ids if node_id != leader]
        cluster.servers[leader].propose(cluster.payloads(), 1.0, lambda outcomes: None)
        assert cluster.servers[leader].failed.wait(10)
        assert "StorageFailed" in cluster.servers[leader].failure
        cluster.network.crash(leader)
        assert {o.status for o in cluster.propose(others[0], cluster.payloads(3))} == {APPLIED}


def test_a_leader_whose_log_is_found_damaged_hands_over_and_goes_on():
    with Cluster(3) as cluster:
        leader = cluster.leader()
        cluster.servers[leader].state.note_damage("log-1.segment, offset 512: the checksum is wrong")
        others = [node_id for node_id in cluster.ids if node_id != leader]
        cluster.leader(among=others)
        status = cluster.servers[leader].status()
        assert any("offset 512" in problem and "raft repair" in problem for problem in status["problems"])
        assert {outcome.status for outcome in cluster.propose(leader, cluster.payloads(3))} == {APPLIED}


def test_a_single_server_whose_log_is_found_damaged_goes_on_leading():
    with Cluster(1) as cluster:
        leader = cluster.leader()
        cluster.servers[leader].state.note_damage("log-1.segment, offset 512: the checksum is wrong")
        assert {outcome.status for outcome in cluster.propose(leader, cluster.payloads(3))} == {APPLIED}
        assert cluster.leaders() == [leader]
