"""Each invariant notices when it is broken; else a green run would say nothing."""

import pytest

from raftlog.consensus.invariants import (
    ClusterHistory,
    InvariantViolated,
    check_cluster,
    check_state,
    check_step,
    observe,
)
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import HardState, Role
from tests.consensus.cluster import SETTINGS, Cluster, command


@pytest.fixture
def three():
    cluster = Cluster("a", "b", "c", formed=True)
    cluster.elect("a")
    cluster.propose("a", "one", "two")
    cluster.settle()
    return cluster


def set_(path, value):
    def change(raft):
        target = raft
        *owners, name = path.split(".")
        for owner in owners:
            target = target[owner] if isinstance(target, dict) else getattr(target, owner)
        setattr(target, name, value)

    return change


@pytest.mark.parametrize(
    ("node_id", "change", "sentence"),
    [
        ("a", set_("commit_index", 99), "last_applied <= commit_index <= last_index"),
        ("a", set_("log.stable_index", 99), "stable_index <= taken_index <= last_index"),
        ("a", set_("log.window_first", 3), "the memory's window ends at the log's last entry"),
        ("a", set_("current_term", 1), "no entry has a term above current_term"),
        ("b", set_("leader_id", "b"), "a server's own id stands as the leader's exactly while it leads"),
        ("a", set_("leadership", None), "leadership and progress exist exactly on a leader"),
        ("a", set_("voted_for", "b"), "candidates and leaders have voted for themselves"),
        ("b", set_("saved_hard_state", HardState(99, "")), "what is durable is never newer"),
        ("a", set_("election_deadline", 1.0), "a leader has no election deadline"),
        ("a", set_("progress.b.match_index", 99), "match_index < next_index"),
        ("a", set_("progress.b.inflight_bytes", 7), "the bytes in flight to a follower"),
        ("a", set_("leadership.uncommitted_bytes", 7), "uncommitted_bytes is the sum"),
        ("a", set_("configuration_index", 3), "the configuration in force is the newest in the log"),
    ],
)
def test_a_broken_state_is_noticed(three, node_id, change, sentence):
    raft = three.rafts[node_id]
    check_state(raft)
    change(raft)
    with pytest.raises(InvariantViolated, match=sentence):
        check_state(raft)


@pytest.mark.parametrize(
    ("node_id", "change", "sentence"),
    [
        ("b", set_("current_term", 1), "current_term never decreases"),
        ("b", set_("commit_index", 1), "commit_index never decreases"),
        ("b", set_("voted_for", "c"), "a vote, once given, stays"),
        ("b", set_("leader_id", "c"), "the known leader changes only between nobody and one"),
        ("a", lambda raft: raft.log.truncate_from(4), "Leader Append-Only"),
        (
            "b",
            lambda raft: (raft.log.truncate_from(4), raft.log.append_new(9, [command()], 0)),
            "a committed entry never changes",
        ),
    ],
)
def test_a_broken_step_is_noticed(three, node_id, change, sentence):
    raft = three.rafts[node_id]
    before = observe(raft)
    check_step(before, raft)
    change(raft)
    with pytest.raises(InvariantViolated, match=sentence):
        check_step(before, raft)


def rewrite(raft: Raft, index: int, term: int) -> None:
    raft.log.truncate_from(index)
    raft.log.append_new(term, [command("other")], 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda three: set_("role", Role.LEADER)(three["b"]), "Election Safety"),
        (lambda three: rewrite(three["b"], 4, 9), "State Machine Safety"),
        (lambda three: (rewrite(three["b"], 4, 2), set_("commit_index", 0)(three["b"])), "Log Matching"),
        (lambda three: (rewrite(three["b"], 2, 9), set_("commit_index", 2)(three["b"])), "State Machine Safety"),
        (lambda three: (three["a"].log.truncate_from(3), set_("commit_index", 2)(three["a"])), "Leader Completeness"),
    ],
)
def test_a_broken_cluster_is_noticed(three, change, sentence):
    check_cluster(three.rafts.values())
    change(three.rafts)
    with pytest.raises(InvariantViolated, match=sentence):
        check_cluster(three.rafts.values())


def test_a_history_remembers_leaders_and_committed_entries(three):
    history = ClusterHistory()
    history.check(three.rafts.values())
    raft = three.rafts["b"]
    rewrite(raft, 2, 9)
    raft.commit_index = 2
    with pytest.raises(InvariantViolated, match="entry 2 was committed with term 2"):
        history.check([raft])
    leader = three.rafts["c"]
    leader.role = Role.LEADER
    with pytest.raises(InvariantViolated, match="a led term 2"):
        history.check([leader])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"last_applied": 9}, "last_applied is 9, but the log of a ends at 4"),
        ({"hard_state": HardState(1, "")}, "the hard state is older than the log"),
    ],
)
def test_a_server_does_not_start_with_what_cannot_belong_together(three, arguments, text):
    disk = three.disks["a"]
    known = {"hard_state": disk.hard_state, "last_applied": 0} | arguments
    with pytest.raises(ValueError, match=text):
        Raft(node_id="a", incarnation="x", settings=SETTINGS, log=disk.load_log(), rng=three.rng, now=0.0, **known)
