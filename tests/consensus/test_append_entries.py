"""Replication: the pipeline, heartbeats, the commit index on its way, entries from disk, limits, violations."""

import pytest

from raftlog.consensus.entries import CONFIGURATION, NO_OP_PAYLOAD, EntryBatch, Run
from raftlog.consensus.events import LogTruncated
from raftlog.consensus.log import FetchEntries
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse
from raftlog.consensus.progress import ProgressState
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.state import Role
from raftlog.exceptions import InvalidEntry, NotLeader, Overloaded, ProtocolViolation
from tests.consensus.cluster import Cluster, command


def leading(**arguments):
    """a leads b and c, everything is committed."""
    cluster = Cluster("a", "b", "c", formed=True, **arguments)
    cluster.elect("a")
    cluster.sent.clear()
    return cluster


@pytest.fixture
def three():
    return leading()


def appends(cluster, recipient="b"):
    return [each for each in cluster.sent if isinstance(each, AppendEntries) and each.recipient == recipient]


def acks(cluster, sender="b"):
    return [each for each in cluster.sent if isinstance(each, AppendEntriesResponse) and each.sender == sender]


def test_a_leader_times_the_answers_of_its_followers(three):
    three.run(1.0)
    trips = {peer: progress.round_trip for peer, progress in three.rafts["a"].progress.items()}
    assert trips == {"b": 0.0, "c": 0.0}  # a test's clock stands still while messages travel
    assert three.rafts["a"].progress["b"].timed_round == 0


# The pipeline


def test_entries_are_pipelined_without_waiting_for_answers():
    cluster = leading(settings=RaftSettings(max_append_entries=2, max_inflight_messages=3))
    cluster.propose("a", *"abcdefghij")
    sent = [(each.entries.first_index, each.entries.last_index) for each in appends(cluster)]
    assert sent == [(3, 4), (5, 6), (7, 8)]
    cluster.settle()
    assert cluster.rafts["b"].commit_index == 12


def test_the_window_is_limited_in_bytes_too():
    size = len(command("x" * 100))
    cluster = leading(settings=RaftSettings(max_append_bytes=size, max_inflight_bytes=2 * size))
    cluster.propose("a", *["x" * 100] * 5)
    assert [len(each.entries) for each in appends(cluster)] == [1, 1]


def test_one_entry_over_the_limit_goes_alone():
    cluster = leading(settings=RaftSettings(max_append_bytes=100))
    cluster.propose("a", "x" * 1000, "y", "z")
    assert [len(each.entries) for each in appends(cluster)] == [1, 2]


def test_a_lost_message_is_noticed_by_the_next_heartbeat(three):
    three.cut("a", "b")
    three.propose("a", "one")
    three.settle()
    three.heal()
    three.run(0.15)
    assert three.rafts["b"].log.last_index == 3
    assert three.rafts["a"].progress["b"].state is ProgressState.REPLICATE


def test_a_lost_message_is_sent_again_after_an_election_timeout_where_no_heartbeat_tells(three):
    """What the follower's log holds beyond match_index may be another leader's."""
    progress = three.rafts["a"].progress["b"]
    three.cut("a", "b")
    three.propose("a", "one")
    three.settle()
    assert progress.retry_at == three.now + 0.5
    assert three.rafts["a"].next_deadline("b") <= progress.retry_at
    three.now = progress.retry_at
    message = three.rafts["a"].next_message("b", three.now)
    assert message.entries.payloads == [command("one")]


def test_messages_out_of_order_are_refused_and_sent_again(three):
    three.cut("a", "b")
    three.propose("a", "one")
    three.propose("a", "two")
    one, two = (each for each in appends(three) if len(each.entries))
    three.heal()
    three.deliver(two)
    three.deliver(one)
    three.deliver(two)
    three.run(0.3)
    assert three.disks["b"].payloads() == three.disks["a"].payloads()


def test_a_new_connection_sends_again_what_was_not_acknowledged(three):
    three.cut("a", "b")
    three.propose("a", "one")
    three.settle()
    three.heal()
    three.do("a", lambda raft: raft.peer_reset("b"))
    three.settle()
    assert three.rafts["b"].log.last_index == 3


# Heartbeats


def test_heartbeats_succeed_whatever_is_in_flight(three):
    three.cut("a", "b")
    three.propose("a", "one")
    three.heal()
    three.wire.clear()
    three.sent.clear()
    three.now += 0.1
    heartbeat = three.rafts["a"].next_message("b", three.now, urgent=True)
    assert (heartbeat.prev_log_index, heartbeat.prev_log_term, len(heartbeat.entries)) == (2, 2, 0)
    three.deliver(heartbeat)
    (found,) = acks(three)
    assert (found.success, found.match_index, found.round) == (True, 2, heartbeat.round)


def test_urgent_messages_hold_no_entries_and_only_what_is_due(three):
    raft = three.rafts["a"]
    raft.propose([command("one")], 0, three.now)
    assert raft.next_message("b", three.now, urgent=True) is None
    assert len(raft.next_message("b", three.now).entries) == 1


def test_entries_count_as_a_heartbeat(three):
    three.now += 0.09
    three.propose("a", "one")
    three.settle()
    assert three.rafts["a"].next_deadline("b") == pytest.approx(three.now + 0.1)


def test_a_slow_disk_of_a_follower_starts_no_election(three):
    """Heartbeats are answered at once; what is not durable is not acknowledged."""
    three.full_disks |= {"b", "c"}
    three.run(0.05)
    three.propose("a", "one")
    three.run(3)
    assert (three.leader.node_id, three.leader.current_term) == ("a", 2)
    assert three.leader.commit_index == 2
    three.full_disks.clear()
    three.run(0.2)
    assert three.leader.commit_index == 3


def test_entries_alone_do_not_keep_check_quorum_from_its_answers(three):
    """Under a steady stream of entries no heartbeat is due; a follower answers each round before its disk does."""
    three.full_disks |= {"b", "c"}
    for _ in range(60):
        three.propose("a", "one")
        three.run(0.05)
    assert three.rafts["a"].role is Role.LEADER


# The commit index on its way


def test_followers_learn_of_a_newer_commit_index_at_once(three):
    three.propose("a", "one")
    three.settle()
    assert [raft.commit_index for raft in three.rafts.values()] == [3, 3, 3]
    assert [(len(each.entries), each.leader_commit) for each in appends(three)] == [(1, 2), (0, 3)]


def test_a_newer_commit_index_travels_with_entries_where_there_are_some(three):
    three.propose("a", "one")
    three.deliver(three.wire.pop(0))
    raft = three.rafts["a"]
    for message in list(three.wire):
        if isinstance(message, AppendEntriesResponse):
            raft.step(message, three.now)
    assert raft.commit_index == 3
    raft.propose([command("two")], 0, three.now)
    message = raft.next_message("b", three.now)
    assert (len(message.entries), message.leader_commit) == (1, 3)
    assert raft.next_message("b", three.now) is None


def test_a_leader_commits_with_its_followers_before_its_own_disk(three):
    three.full_disks.add("a")
    three.propose("a", "one")
    three.settle()
    assert three.rafts["a"].commit_index == 3
    assert three.rafts["a"].log.stable_index == 2


# Entries from disk


def test_what_memory_has_no_longer_is_fetched_from_disk():
    cluster = leading(settings=RaftSettings(max_window_bytes=200))
    cluster.crash("b")
    cluster.propose("a", *[f"{i}" for i in range(20)])
    cluster.settle()
    cluster.propose("a", *[f"{i}" for i in range(20)])
    cluster.settle()
    raft = cluster.rafts["a"]
    assert raft.log.window_first > 3
    raft.peer_reset("b")
    request = raft.next_message("b", cluster.now)
    assert isinstance(request, FetchEntries)
    assert (request.peer, request.first_index) == ("b", raft.progress["b"].match_index + 1)
    assert request.last_index < raft.log.window_first
    assert raft.next_message("b", cluster.now) == request, "asking again is harmless"
    batch = cluster.disks["a"].read(request.first_index, request.last_index)
    stale = EntryBatch(batch.first_index + 1, [Run(1, 2, 0)], [command()])
    assert raft.fetched(request, stale, cluster.now) is None
    assert raft.fetched(request._replace(term=1), batch, cluster.now) is None
    assert raft.fetched(request, batch, cluster.now).entries == batch
    cluster.restart("b")
    raft.peer_reset("b")
    cluster.run(0.3)
    assert cluster.disks["b"].payloads() == cluster.disks["a"].payloads()


# Limits


def test_uncommitted_bytes_are_limited():
    cluster = leading(settings=RaftSettings(max_uncommitted_bytes=100))
    cluster.partition(["a"], ["b", "c"])
    cluster.propose("a", "x" * 500)
    with pytest.raises(Overloaded, match="max_uncommitted_bytes is 100") as caught:
        cluster.propose("a", "y")
    assert caught.value.retry_after > 0
    cluster.heal()
    cluster.run(0.2)
    cluster.propose("a", "y")


@pytest.mark.parametrize("payload", [b"", NO_OP_PAYLOAD, bytes([CONFIGURATION]) + b"x", b"\xff"])
def test_only_client_entries_are_proposed(three, payload):
    with pytest.raises(InvalidEntry):
        three.rafts["a"].propose([command(), payload], 0, three.now)
    assert three.rafts["a"].log.last_index == 2


def test_a_follower_takes_no_proposals(three):
    with pytest.raises(NotLeader) as caught:
        three.propose("b", "one")
    assert caught.value.leader_id == "a"


def test_log_time_never_goes_back_over_leaders(three):
    three.do("a", lambda raft: raft.propose([command("one")], 5_000, three.now))
    three.settle()
    three.elect("b")
    three.do("b", lambda raft: raft.propose([command("two")], 3_000, three.now))
    three.settle()
    times = [run.log_time for batch in three.disks["c"].batches for run in batch.runs]
    assert times == sorted(times)
    assert times[-1] == 5_000


# Other incarnations and violations


def test_acknowledgements_of_another_incarnation_count_for_nothing(three):
    three.partition(["a"], ["b", "c"])
    three.propose("a", "one")
    before = three.leader.quorum_deadline
    three.now += 0.2
    for term in (2, 9):
        three.deliver_anyway(AppendEntriesResponse(term, "b", "a", term == 2, 3, 0, 0, 99, "emptied", 3, 0))
    raft = three.rafts["a"]
    assert (raft.role, raft.current_term, raft.commit_index) == (Role.LEADER, 2, 2)
    assert raft.quorum_deadline == before


def test_a_server_refuses_entries_for_another_incarnation(three):
    message = AppendEntries(7, "c", "b", 0, 0, EntryBatch(1, [], []), 0, 1, "an older folder")
    three.deliver_anyway(message)
    assert (acks(three)[0].success, three.rafts["b"].current_term) == (False, 2)


def test_two_leaders_of_one_term_are_a_violation(three):
    message = AppendEntries(2, "c", "b", 1, 1, EntryBatch(2, [], []), 0, 1, "folder-b")
    with pytest.raises(ProtocolViolation, match="a term has one leader"):
        three.rafts["b"].step(message, three.now)


def test_a_committed_entry_is_never_replaced(three):
    entries = EntryBatch(2, [Run(1, 5, 0)], [command("other")])
    with pytest.raises(ProtocolViolation, match="committed entries never change"):
        three.rafts["b"].step(AppendEntries(5, "c", "b", 1, 1, entries, 0, 1, "folder-b"), three.now)


def test_an_acknowledgement_beyond_the_log_is_a_violation(three):
    message = AppendEntriesResponse(2, "b", "a", True, 99, 0, 0, 1, "folder-b", 99, 0)
    with pytest.raises(ProtocolViolation, match="acknowledges index 99"):
        three.rafts["a"].step(message, three.now)


@pytest.mark.parametrize(("sender", "recipient"), [("c", "x"), ("b", "b")])
def test_messages_for_others_are_a_violation(three, sender, recipient):
    message = AppendEntriesResponse(2, sender, recipient, True, 1, 0, 0, 1, "", 1, 0)
    with pytest.raises(ProtocolViolation):
        three.rafts["b"].step(message, three.now)


def test_a_deposed_leaders_uncommitted_entry_is_replaced(three):
    """§5.3, Figure 7; the truncation reaches the disk before the new entries do."""
    three.partition(["a"], ["b", "c"])
    three.propose("a", "lost")
    three.run(1.0)
    if three.rafts["b"].role is not Role.LEADER:
        three.elect("b")
    three.propose("b", "kept")
    three.settle()
    three.heal()
    three.run(0.5)
    assert three.disks["a"].payloads() == three.disks["b"].payloads()
    assert command("lost") not in three.disks["a"].payloads()
    assert any(isinstance(event, LogTruncated) and event.first_index == 3 for event in three.events["a"])


@pytest.mark.parametrize("lost", [1, 5])
def test_a_long_partition_is_over_soon_after_it_healed(three, lost):
    """Though the deposed leader's log reaches as far as what got lost on the way to it."""
    three.partition(["a"], ["b", "c"])
    three.propose("a", *["lost"] * lost)
    three.run(20)
    three.heal()
    three.run(0.6)
    assert three.disks["a"].payloads() == three.disks["b"].payloads() == three.disks["c"].payloads()
    assert three.rafts["a"].commit_index == three.leader.commit_index


# Acknowledgements that wait for the disk


def test_acknowledgements_that_become_due_together_are_sent_as_one(three):
    raft = three.rafts["b"]
    three.cut("b", "a")
    for text in ("one", "two"):
        three.propose("a", text)
    for message in [each for each in appends(three) if len(each.entries)]:
        raft.step(message, three.now)
    assert [each.match_index for each in raft.take_replies()] == [2]
    work = raft.take_unstable(three.now)
    raft.stable_to(3, 2)
    assert [each.match_index for each in raft.take_replies()] == [3]
    raft.stable_to(work.entries.last_index, work.entries.last_term)
    assert [each.match_index for each in raft.take_replies()] == [4]


def test_an_acknowledgement_is_dropped_with_its_entries(three):
    raft = three.rafts["b"]
    three.propose("a", "one")
    raft.step(appends(three)[0], three.now)
    raft.take_replies()
    taken = raft.take_unstable(three.now)
    newer = EntryBatch(3, [Run(1, 3, 0)], [command("other")])
    raft.step(AppendEntries(3, "c", "b", 2, 2, newer, 0, 1, "folder-b"), three.now)
    raft.hard_state_saved(raft.unsaved_hard_state)
    raft.stable_to(taken.entries.last_index, taken.entries.last_term)
    assert {each.match_index for each in raft.take_replies()} == {2}
    work = raft.take_unstable(three.now)
    assert work.truncate_from == 3
    raft.stable_to(3, 3)
    (found,) = raft.take_replies()
    assert (found.recipient, found.match_index) == ("c", 3)


def test_an_acknowledgement_is_dropped_with_its_term(three):
    """A follower that has moved on vouches for nothing to the leader of the older term."""
    raft = three.rafts["b"]
    three.propose("a", "one")
    raft.step(appends(three)[0], three.now)
    raft.take_replies()
    work = raft.take_unstable(three.now)
    raft.step(AppendEntries(3, "c", "b", 2, 2, EntryBatch(3, [], []), 0, 1, "folder-b"), three.now)
    raft.hard_state_saved(raft.unsaved_hard_state)
    raft.stable_to(work.entries.last_index, work.entries.last_term)
    assert [(each.recipient, each.match_index) for each in raft.take_replies()] == [("c", 2)]


def test_nothing_of_a_term_is_written_before_the_term_is(three):
    raft = three.rafts["b"]
    newer = EntryBatch(3, [Run(1, 3, 0)], [command("other")])
    raft.step(AppendEntries(3, "c", "b", 2, 2, newer, 0, 1, "folder-b"), three.now)
    assert raft.take_unstable(three.now) is None
    raft.hard_state_saved(raft.unsaved_hard_state)
    assert raft.take_unstable(three.now).entries == newer
