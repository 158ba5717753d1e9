"""Snapshots (paper §7): who is offered one, what restoring one does to the log, what the log is held for."""

from __future__ import annotations

import pytest

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.events import ChangeAbandoned, SnapshotNeeded, SnapshotOffered, SnapshotRestored
from raftlog.consensus.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
)
from raftlog.consensus.progress import ProgressState
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import LogBase, SnapshotWanted, Transfer
from raftlog.consensus.state import Role
from tests.consensus.cluster import Cluster, members


def left_behind(*, entries: int = 8, settings: RaftSettings | None = None) -> Cluster:
    """c was away while a, which leads, wrote and compacted; it is back and has been told."""
    cluster = Cluster("a", "b", "c", formed=True, settings=settings or RaftSettings())
    cluster.elect("a")
    cluster.settle()
    cluster.partition("ab", "c")
    for number in range(entries):
        cluster.propose("a", f"entry {number}")
    cluster.settle()
    for node_id in "ab":
        cluster.apply(node_id)
        cluster.compact(node_id)
    cluster.heal()
    cluster.run(0.25)
    return cluster


def pulled(cluster: Cluster, node_id: str = "c") -> LogBase:
    """The server has pulled the image that it wants, and restores it."""
    wanted = cluster.rafts[node_id].wanted_snapshot
    assert wanted is not None
    image = cluster.image(wanted.peer)
    assert image.index >= wanted.minimum_index
    cluster.restore(node_id, image)
    cluster.settle()
    return image


def sent(cluster: Cluster, kind: type, sender: str, recipient: str) -> list:
    found = [m for m in cluster.sent if isinstance(m, kind)]
    return [m for m in found if (m.sender, m.recipient) == (sender, recipient)]


# The leader's offer


def test_a_follower_whose_entries_are_gone_is_offered_a_snapshot_and_nothing_else():
    """§7: "the leader must occasionally send snapshots to followers that lag behind"."""
    cluster = left_behind()
    leader, follower = cluster.rafts["a"], cluster.rafts["c"]
    assert leader.progress["c"].state is ProgressState.SNAPSHOT
    assert follower.wanted_snapshot == SnapshotWanted("a", leader.last_applied)
    assert any(isinstance(event, SnapshotOffered) for event in cluster.events["a"])
    assert [type(event) for event in cluster.events["c"]].count(SnapshotNeeded) == 1, "told once, not at each heartbeat"
    cluster.sent.clear()
    cluster.run(0.5)
    assert sent(cluster, AppendEntries, "a", "c") == []
    assert len(sent(cluster, InstallSnapshot, "a", "c")) >= 4


def test_a_restored_follower_gets_the_entries_that_follow():
    cluster = left_behind()
    cluster.propose("a", "meanwhile")
    cluster.settle()
    image = pulled(cluster)
    cluster.run(0.3)
    leader, follower = cluster.rafts["a"], cluster.rafts["c"]
    assert follower.wanted_snapshot is None
    assert follower.log.base == image
    assert leader.progress["c"].state is ProgressState.REPLICATE
    assert leader.progress["c"].match_index == leader.log.last_index == follower.log.last_index
    assert follower.commit_index == leader.commit_index > image.index


def test_an_offer_is_a_heartbeat_for_check_quorum_and_for_the_follower():
    """A leader whose only followers wait for snapshots leads on, and they do not stand for election."""
    cluster = left_behind()
    term = cluster.rafts["a"].current_term
    cluster.crash("b")
    cluster.run(3.0)
    assert cluster.rafts["a"].role is Role.LEADER
    assert cluster.rafts["a"].current_term == cluster.rafts["c"].current_term == term


def test_reads_are_confirmed_by_answers_to_offers():
    cluster = left_behind()
    cluster.crash("b")
    cluster.run(0.3)
    cluster.do("a", lambda raft: raft.request_read(7, cluster.now))
    cluster.settle()
    assert cluster.reads["a"] == [(7, cluster.rafts["a"].commit_index)]


def test_a_follower_whose_log_has_the_base_after_all_goes_on_without_a_snapshot():
    """The leader only guesses, from refusals, where a follower's log ends."""
    cluster = left_behind()
    cluster.partition("ab", "c")
    cluster.wire.clear()
    follower = cluster.rafts["c"]
    image = cluster.image("b")
    cluster.restore("c", image)
    cluster.heal()
    cluster.run(0.3)
    assert cluster.rafts["a"].progress["c"].state is ProgressState.REPLICATE
    assert follower.wanted_snapshot is None


def test_leadership_never_goes_to_a_follower_that_needs_a_snapshot():
    cluster = left_behind()
    with pytest.raises(ValueError, match="needs a snapshot"):
        cluster.do("a", lambda raft: raft.transfer_leadership("c", cluster.now))
    assert cluster.rafts["a"].best_successor(cluster.now, ("b", "c")) == "b"


# Holding the log


def test_the_log_is_held_for_a_follower_that_gets_on_with_its_snapshot():
    """Otherwise it would need another one when it has this one, and so for ever."""
    cluster = left_behind()
    offered = cluster.rafts["a"].progress["c"].snapshot_index
    for kilobytes in range(40):
        cluster.propose("a", "more")
        cluster.do("c", lambda raft, n=kilobytes: raft.report_transfer(Transfer(offered, n << 10, 40 << 10)))
        cluster.run(1.0, step=0.05)
        cluster.apply("a")
        assert cluster.compact("a") == offered
    image = LogBase(offered, cluster.rafts["a"].log.term_at(offered))
    cluster.do("c", lambda raft: raft.report_transfer(Transfer()))
    cluster.restore("c", image)
    cluster.run(0.5)
    assert cluster.rafts["c"].log.last_index == cluster.rafts["a"].log.last_index
    assert cluster.rafts["c"].wanted_snapshot is None
    assert cluster.compact("a") == cluster.rafts["a"].last_applied, "caught up: nothing is held any more"


def test_the_log_is_held_while_the_follower_catches_up_after_its_snapshot():
    cluster = left_behind()
    for number in range(20):
        cluster.propose("a", f"later {number}")
    cluster.settle()
    cluster.apply("a")
    image = LogBase(cluster.rafts["a"].progress["c"].snapshot_index, 2)
    cluster.cut("a", "c")
    cluster.restore("c", image)
    cluster.settle()
    cluster.heal()
    cluster.full_disks.add("c")  # it takes entries and has not acknowledged any yet
    cluster.run(0.3)
    assert cluster.rafts["a"].progress["c"].state is not ProgressState.SNAPSHOT
    assert cluster.compact("a") == image.index
    cluster.full_disks.clear()
    cluster.do("c", lambda raft: None)
    cluster.run(0.3)
    assert cluster.compact("a") == cluster.rafts["a"].last_applied


def test_the_log_is_not_held_for_a_follower_without_progress():
    settings = RaftSettings(catch_up_timeout=5.0)
    cluster = left_behind(settings=settings)
    offered = cluster.rafts["a"].progress["c"].snapshot_index
    cluster.propose("a", "more")
    cluster.run(2.0)
    cluster.apply("a")
    assert cluster.compact("a") == offered
    cluster.run(4.0)
    assert cluster.compact("a") > offered
    cluster.run(0.3)
    wanted = cluster.rafts["c"].wanted_snapshot
    assert wanted is not None
    assert wanted.minimum_index == cluster.rafts["a"].last_applied, "what it was offered before will not do any more"
    pulled(cluster)
    cluster.run(0.3)
    assert cluster.rafts["c"].log.last_index == cluster.rafts["a"].log.last_index


def test_a_log_is_never_compacted_past_its_own_database():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.propose("a", "one", "two")
    cluster.settle()
    assert cluster.compact("a") == 0
    with pytest.raises(ValueError, match="not committed"):
        cluster.rafts["a"].base_at(cluster.rafts["a"].commit_index + 1)
    cluster.apply("a")
    assert cluster.compact("a") == cluster.rafts["a"].last_applied > 0


# The follower's log


def test_restoring_keeps_the_entries_that_follow_in_a_log_that_has_the_last_one():
    """§7: "If existing log entry has same index and term as snapshot's last included entry, retain log entries
    following it and reply"."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.propose("a", "one", "two", "three")
    cluster.settle()
    raft = cluster.rafts["c"]
    before = raft.log.term_runs()
    cluster.restore("c", LogBase(3, raft.log.term_at(3)))
    assert raft.log.term_runs() == before
    assert (raft.last_applied, raft.log.base.index) == (3, 0)
    assert cluster.events["c"][-1] == SnapshotRestored(raft.current_term, 3, True)


def test_restoring_discards_a_log_that_has_another_entry_there():
    """§7: "Discard the entire log" otherwise: here entries that an older leader left, beyond the snapshot too."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("c")
    cluster.settle()
    cluster.partition("ab", "c")
    for number in range(20):
        cluster.propose("c", f"lost {number}")
    cluster.run(2.0)
    leader_id = cluster.leader.node_id
    assert leader_id in ("a", "b")
    cluster.propose(leader_id, "one", "two", "three")
    cluster.settle()
    cluster.apply(leader_id)
    cluster.compact(leader_id)
    cluster.heal()
    cluster.run(0.5)
    image = pulled(cluster)
    raft = cluster.rafts["c"]
    assert raft.log.base == image
    assert raft.log.term_runs() == cluster.leader.log.term_runs()
    assert cluster.disks["c"].base == image
    assert SnapshotRestored(raft.current_term, image.index, False) in cluster.events["c"]


def test_a_log_that_begins_anew_acknowledges_nothing_before_that_is_durable():
    cluster = left_behind()
    image = cluster.image("a")
    cluster.full_disks.add("c")
    cluster.do("c", lambda raft: raft.restore_snapshot(image, cluster.now))
    cluster.sent.clear()
    cluster.run(0.5)
    assert cluster.rafts["c"].log.stable_index == 0
    assert {m.match_index for m in sent(cluster, InstallSnapshotResponse, "c", "a")} == {0}
    cluster.full_disks.clear()
    cluster.do("c", lambda raft: None)
    cluster.run(0.5)
    assert cluster.rafts["a"].progress["c"].match_index == cluster.rafts["a"].log.last_index


def test_the_configuration_comes_with_the_base():
    """§7: the snapshot includes "the latest configuration as of last included index"."""
    cluster = left_behind()
    pulled(cluster)
    raft = cluster.restart("c")
    assert raft.configuration == cluster.rafts["a"].configuration
    assert raft.configuration_index == cluster.rafts["a"].configuration_index == 1
    assert raft.commit_index == raft.last_applied == raft.log.base.index


def test_a_restored_server_follows_no_leader_of_before_the_snapshot_was_committed():
    """Such a leader's log may lack entries of the snapshot: what it sends must not count as agreed."""
    cluster = left_behind()
    cluster.partition("ab", "c")
    old = sent(cluster, InstallSnapshot, "a", "c")[-1]
    cluster.do("a", lambda raft: raft.transfer_leadership("b", cluster.now))
    cluster.settle()
    assert cluster.rafts["b"].role is Role.LEADER
    image = cluster.image("b")
    assert image.term < image.committed_in == cluster.rafts["b"].current_term
    cluster.restore("c", image)
    assert cluster.rafts["c"].current_term == cluster.disks["c"].hard_state.current_term == image.committed_in
    cluster.sent.clear()
    cluster.deliver_anyway(old)
    answer = sent(cluster, InstallSnapshotResponse, "c", "a")[0]
    assert (answer.term, answer.match_index) == (image.committed_in, 0)


def test_nothing_is_applied_between_restoring_and_the_image():
    """Else the image would set the database back, where the log was kept and has what follows."""
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.propose("a", "one", "two", "three")
    cluster.settle()
    raft = cluster.rafts["c"]
    cluster.do("c", lambda raft: raft.restore_snapshot(LogBase(3, raft.log.term_at(3)), cluster.now))
    assert raft.lacks_database
    assert raft.election_deadline == float("inf")
    cluster.do("c", lambda raft: raft.machine_is_at(0))
    assert not raft.lacks_database, "it could not be installed, and the log has everything"
    cluster.restore("c", LogBase(3, raft.log.term_at(3)))
    assert not raft.lacks_database
    with pytest.raises(ValueError, match="has applied entry 3"):
        raft.restore_snapshot(LogBase(3, raft.log.term_at(3)), cluster.now)


def test_useless_images_are_refused():
    cluster = left_behind()
    cluster.apply("a")
    with pytest.raises(ValueError, match="leads term"):
        cluster.rafts["a"].restore_snapshot(cluster.image("b"), cluster.now)
    with pytest.raises(ValueError, match="older than the log"):
        cluster.rafts["b"].restore_snapshot(LogBase(2, 1), cluster.now)
    b = cluster.rafts["b"]
    cluster.propose("a", "x")
    cluster.settle()
    cluster.run(0.2)
    with pytest.raises(ValueError, match="another cluster's"):
        b.restore_snapshot(LogBase(b.commit_index, b.current_term + 5), cluster.now)


# Delayed, repeated and foreign offers


def test_an_offer_of_an_older_term_changes_nothing_but_is_told_the_newer_one():
    cluster = left_behind()
    old = sent(cluster, InstallSnapshot, "a", "c")[-1]
    pulled(cluster)
    cluster.partition("bc", "a")
    cluster.run(2.0)
    assert cluster.leader.node_id in ("b", "c")
    c = cluster.rafts["c"]
    before = (c.current_term, c.leader_id, c.log.last_index)
    cluster.sent.clear()
    cluster.deliver_anyway(old)
    assert (c.current_term, c.leader_id, c.log.last_index) == before
    assert c.wanted_snapshot is None
    assert sent(cluster, InstallSnapshotResponse, "c", "a")[0].term == c.current_term


def test_a_repeated_offer_after_restoring_asks_for_nothing():
    cluster = left_behind()
    old = sent(cluster, InstallSnapshot, "a", "c")[-1]
    pulled(cluster)
    cluster.run(0.3)
    cluster.deliver_anyway(old)
    assert cluster.rafts["c"].wanted_snapshot is None
    answer = sent(cluster, InstallSnapshotResponse, "c", "a")[-1]
    assert answer.match_index == old.base_index
    match_index = cluster.rafts["a"].progress["c"].match_index
    cluster.settle()
    assert cluster.rafts["a"].progress["c"].match_index == match_index, "an old answer takes nothing back"
    assert cluster.rafts["a"].progress["c"].state is ProgressState.REPLICATE


def test_a_pull_goes_on_over_a_change_of_leader():
    """The image may come from any server; the new leader makes an offer of its own, by its own log."""
    cluster = left_behind()
    image = cluster.image("a")
    cluster.crash("a")
    cluster.run(0.3)
    wanted = cluster.rafts["c"].wanted_snapshot
    assert wanted is not None, "no leader, and still it knows what it needs"
    cluster.run(2.0)
    assert cluster.rafts["b"].role is Role.LEADER
    cluster.restore("c", image)
    cluster.run(0.5)
    assert cluster.rafts["c"].log.last_index == cluster.rafts["b"].log.last_index


def test_an_image_restored_while_a_new_leader_appends_already():
    cluster = left_behind()
    image = cluster.image("a")
    cluster.crash("a")
    cluster.run(2.5)
    assert cluster.rafts["b"].role is Role.LEADER
    for number in range(5):
        cluster.propose("b", f"by b {number}")
        cluster.run(0.1)
    assert cluster.rafts["c"].wanted_snapshot is not None
    cluster.restore("c", image)
    cluster.run(0.5)
    assert cluster.rafts["c"].log.last_index == cluster.rafts["c"].commit_index == cluster.rafts["b"].log.last_index


def test_an_offer_to_another_incarnation_is_none():
    """Rule 4 of the design: it is meant for a folder that is gone."""
    cluster = left_behind()
    offer = sent(cluster, InstallSnapshot, "a", "c")[-1]
    b = cluster.rafts["b"]
    message = InstallSnapshot(
        offer.term, "a", "b", offer.base_index + 50, offer.base_term, offer.snapshot_index + 50, 1, "folder-gone"
    )
    cluster.do("b", lambda raft: raft.step(message, cluster.now))
    assert b.wanted_snapshot is None


# A database that is behind its own log


def test_a_server_whose_database_is_lost_votes_and_takes_entries_but_never_stands():
    cluster = left_behind()
    cluster.partition("abc")
    cluster.disks["b"].database = 0
    b = cluster.restart("b")
    assert b.wanted_snapshot == SnapshotWanted("", b.log.base.index)
    cluster.run(0.3)
    assert b.wanted_snapshot == SnapshotWanted("a", b.log.base.index)
    cluster.propose("a", "more")
    cluster.settle()
    assert b.log.last_index == cluster.rafts["a"].log.last_index
    term = b.current_term
    cluster.crash("a")
    cluster.run(5.0)
    assert b.role is Role.FOLLOWER
    assert b.current_term == term, "no election by b; c waits for a snapshot and lacks entries"
    cluster.restart("a")
    cluster.run(2.0)
    assert cluster.rafts["a"].role is Role.LEADER, "with the vote of b or c"
    pulled(cluster, "b")
    assert b.wanted_snapshot is None
    assert b.election_deadline < float("inf")
    cluster.apply("b")
    assert b.last_applied == b.log.last_index


def test_a_leader_whose_database_turns_out_to_be_lost_resigns():
    cluster = left_behind()
    pulled(cluster)
    cluster.run(0.3)
    a = cluster.rafts["a"]
    cluster.do("a", lambda raft: raft.machine_is_at(raft.log.base.index))
    assert a.role is Role.LEADER, "its log has what follows"
    with pytest.raises(AssertionError, match="last_applied never decreases"):
        cluster.do("a", lambda raft: raft.machine_is_at(raft.log.base.index - 1))
    assert a.role is Role.FOLLOWER
    assert a.wanted_snapshot is not None
    cluster.run(3.0)
    assert a.role is Role.FOLLOWER
    assert cluster.leader.node_id in ("b", "c")


# Learners (dissertation §4.2.1)


def joining(*, timeout: float) -> Cluster:
    """d is to vote; the log that it would need is gone."""
    cluster = Cluster(
        "a",
        "b",
        "c",
        formed=True,
        settings=RaftSettings(catch_up_timeout=timeout),
        first_members=members("a", "b", "c", learners=["d"]),
    )
    cluster.disks["d"].batches.clear()
    cluster.crash("d")
    cluster.elect("a")
    cluster.propose("a", "one", "two", "three")
    cluster.settle()
    cluster.apply("a")
    cluster.compact("a")
    cluster.restart("d")
    current = cluster.rafts["a"].configuration
    servers = {**current.servers, "d": Server("d:1", "folder-d")}
    target = Configuration(current.cluster_id, servers, ("a", "b", "c", "d"))
    cluster.do("a", lambda raft: raft.change_configuration(target, raft.configuration_index, cluster.now))
    cluster.settle()
    return cluster


def test_a_learner_that_pulls_a_snapshot_makes_progress_and_is_promoted():
    cluster = joining(timeout=3.0)
    for kilobytes in range(8):
        cluster.do("d", lambda raft, n=kilobytes: raft.report_transfer(Transfer(4, n << 10, 8 << 10)))
        cluster.run(1.0, step=0.05)
    assert cluster.rafts["a"].configuration.goal_voters, "still under way"
    pulled(cluster, "d")
    cluster.run(1.0)
    assert cluster.rafts["a"].configuration.voters == ("a", "b", "c", "d")
    assert not cluster.rafts["a"].configuration.goal_voters


def test_a_learner_whose_snapshot_does_not_move_is_given_up():
    cluster = joining(timeout=3.0)
    cluster.run(4.0, step=0.05)
    assert any(isinstance(event, ChangeAbandoned) for event in cluster.events["a"])
    assert cluster.rafts["a"].configuration.voters == ("a", "b", "c")


def test_entries_that_were_in_flight_make_an_offer_void():
    """Seed 92 of the simulation with images: the follower acknowledged them after it had been offered a snapshot, its
    callers waited for the commit, and the leader sent offers without end and without a pause."""
    cluster = left_behind()
    leader = cluster.rafts["a"]
    end = leader.log.last_index
    assert leader.log.base.index == end
    leader.expect_commit("c", end)
    newest = leader.leadership.round
    late = AppendEntriesResponse(
        leader.current_term, "c", "a", True, end, 0, 0, newest, cluster.disks["c"].incarnation, end, 0
    )
    leader.step(late, cluster.now)
    assert leader.progress["c"].state is not ProgressState.SNAPSHOT
    messages = [leader.next_message("c", cluster.now) for _ in range(4)]
    assert messages[-1] is None
    assert not any(isinstance(message, InstallSnapshot) for message in messages)
