"""Figure 2 of the paper, sentence by sentence: each test is named after one and quotes it."""

import pytest

from raftlog.consensus.entries import NO_OP_PAYLOAD, EntryBatch, Run
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, RequestVote, RequestVoteResponse
from raftlog.consensus.state import HardState, Role
from raftlog.exceptions import NotLeader
from tests.consensus.cluster import Cluster, command


def vote(cluster, sender, recipient, *, term, last_log=(1, 1), transfer=True, pre_vote=False):
    """A request past the live leader's protection, unless transfer is False."""
    index, last_term = last_log
    incarnations = (f"folder-{recipient}", f"folder-{sender}")
    return RequestVote(term, sender, recipient, index, last_term, pre_vote, transfer, *incarnations)


def entries(sender, recipient, *, term, prev, terms=(), commit=0):
    index, prev_term = prev
    batch = EntryBatch(index + 1, [Run(1, each, 0) for each in terms], [command(f"{each}") for each in terms])
    return AppendEntries(term, sender, recipient, index, prev_term, batch, commit, 1, f"folder-{recipient}")


def answer(cluster, node_id, message):
    """What the server answers to `message`."""
    cluster.sent.clear()
    cluster.do(node_id, lambda raft: raft.step(message, cluster.now))
    (found,) = [each for each in cluster.sent if each.recipient == message.sender and each.sender == node_id]
    return found


@pytest.fixture
def three():
    return Cluster("a", "b", "c", formed=True)


def feed(cluster, node_id, *terms, sender="c"):
    """Give a follower entries of these terms from index 2 on."""
    cluster.deliver(entries(sender, node_id, term=terms[-1], prev=(1, 1), terms=terms))


# AppendEntries RPC, receiver implementation


def test_append_entries_1_reply_false_if_term_is_below_current_term(three):
    """1. "Reply false if term < currentTerm (§5.1)"."""
    feed(three, "a", 5)
    found = answer(three, "a", entries("b", "a", term=4, prev=(1, 1), terms=(4,)))
    assert (found.success, found.term) == (False, 5)
    assert three.rafts["a"].log.last_index == 2


@pytest.mark.parametrize("prev", [(3, 2), (9, 2), (2, 1)])
def test_append_entries_2_reply_false_if_the_log_lacks_prev_log_index_with_prev_log_term(three, prev):
    """2. "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm (§5.3)"."""
    feed(three, "a", 2)
    found = answer(three, "a", entries("c", "a", term=2, prev=prev, terms=(2,)))
    assert not found.success
    assert found.match_index == prev[0]
    assert three.rafts["a"].log.last_index == 2


def test_append_entries_3_delete_a_conflicting_entry_and_all_that_follow_it(three):
    """3. "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry
    and all that follow it (§5.3)"."""
    feed(three, "a", 2, 2, 2)
    found = answer(three, "a", entries("b", "a", term=3, prev=(2, 2), terms=(3,)))
    assert found.success
    assert [three.rafts["a"].log.term_at(index) for index in (1, 2, 3)] == [1, 2, 3]
    assert three.rafts["a"].log.last_index == three.disks["a"].last_index == 3


def test_append_entries_3_deletes_nothing_where_nothing_conflicts(three):
    """A late, shorter message takes nothing back (§5.3: RPCs may arrive out of order)."""
    feed(three, "a", 2, 2, 2)
    found = answer(three, "a", entries("c", "a", term=2, prev=(1, 1), terms=(2,)))
    assert (found.success, found.match_index) == (True, 2)
    assert three.rafts["a"].log.last_index == 4


def test_append_entries_4_append_entries_not_already_in_the_log(three):
    """4. "Append any new entries not already in the log"."""
    feed(three, "a", 2, 2)
    found = answer(three, "a", entries("c", "a", term=2, prev=(2, 2), terms=(2, 2, 2)))
    assert (found.success, found.match_index) == (True, 5)
    assert three.disks["a"].last_index == 5


@pytest.mark.parametrize(("leader_commit", "expected"), [(1, 1), (2, 2), (3, 3), (4, 3), (9, 3)])
def test_append_entries_5_commit_index_follows_up_to_the_last_new_entry(three, leader_commit, expected):
    """5. "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)": entries beyond
    it may be another leader's."""
    feed(three, "a", 2, 2, 2)
    three.deliver(entries("c", "a", term=2, prev=(1, 1), terms=(2, 2), commit=leader_commit))
    assert three.rafts["a"].commit_index == expected


# RequestVote RPC, receiver implementation


def test_request_vote_1_reply_false_if_term_is_below_current_term(three):
    """1. "Reply false if term < currentTerm (§5.1)"."""
    feed(three, "a", 5)
    found = answer(three, "a", vote(three, "b", "a", term=4, last_log=(9, 4)))
    assert (found.vote_granted, found.term) == (False, 5)


def test_request_vote_2_grant_the_vote_to_one_candidate_a_term(three):
    """2. "If votedFor is null or candidateId … grant vote": the same one again, no other."""
    assert answer(three, "a", vote(three, "b", "a", term=2)).vote_granted
    assert answer(three, "a", vote(three, "b", "a", term=2)).vote_granted
    assert not answer(three, "a", vote(three, "c", "a", term=2)).vote_granted
    assert three.disks["a"].hard_state == HardState(2, "b")
    three.restart("a")
    assert not answer(three, "a", vote(three, "c", "a", term=2)).vote_granted, "a restart forgets no vote"


@pytest.mark.parametrize(
    ("last_log", "expected"), [((3, 2), True), ((2, 3), True), ((4, 2), True), ((2, 2), False), ((9, 1), False)]
)
def test_request_vote_2_only_to_a_candidate_whose_log_is_up_to_date(three, last_log, expected):
    """2. "… and candidate's log is at least as up-to-date as receiver's log, grant vote (§5.2, §5.4)"."""
    feed(three, "a", 2, 2)
    assert answer(three, "a", vote(three, "b", "a", term=3, last_log=last_log)).vote_granted is expected


# Rules for servers: all servers


def test_all_servers_apply_only_what_is_committed(three):
    """ "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied] to state machine (§5.3)"."""
    three.deliver(entries("c", "a", term=2, prev=(1, 1), terms=(2, 2), commit=2))
    raft = three.rafts["a"]
    raft.applied_to(2)
    assert raft.last_applied == 2
    with pytest.raises(ValueError, match="index 3 was applied, but commit_index is 2"):
        raft.applied_to(3)


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
@pytest.mark.parametrize("kind", ["request", "response"])
def test_all_servers_convert_to_follower_at_a_higher_term(three, role, kind):
    """ "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower (§5.1)"."""
    raft = three.rafts["a"]
    if role is not Role.FOLLOWER:
        three.partition(["a"], ["b", "c"])
        three.campaign("a")
    if role in (Role.CANDIDATE, Role.LEADER):
        three.deliver_anyway(RequestVoteResponse(2, "b", "a", True, True, "folder-b", False, ""))
    if role is Role.LEADER:
        three.deliver_anyway(RequestVoteResponse(2, "b", "a", True, False, "folder-b", False, ""))
    assert raft.role is role
    if kind == "request":
        message = entries("c", "a", term=9, prev=(1, 1))
    else:
        message = AppendEntriesResponse(9, "c", "a", False, 0, 0, 0, 1, "folder-c", 1, 0)
    three.deliver_anyway(message)
    assert (raft.role, raft.current_term, three.disks["a"].hard_state.current_term) == (Role.FOLLOWER, 9, 9)


# Rules for servers: followers


def test_followers_respond_to_rpcs_from_candidates_and_leaders(three):
    """ "Respond to RPCs from candidates and leaders"."""
    assert answer(three, "a", vote(three, "b", "a", term=2)).vote_granted
    assert answer(three, "a", entries("b", "a", term=2, prev=(1, 1))).success


def test_followers_convert_to_candidate_when_the_election_timeout_elapses(three):
    """ "If election timeout elapses without receiving AppendEntries RPC from current leader or granting vote to
    candidate: convert to candidate": here by way of pre-vote."""
    raft = three.rafts["a"]
    timeout = raft.election_deadline - three.now
    assert 0.5 <= timeout < 1.0
    three.now += 0.4
    three.deliver(entries("c", "a", term=2, prev=(1, 1)))
    assert raft.election_deadline >= three.now + 0.5
    three.now += 0.4
    three.deliver(vote(three, "b", "a", term=3))
    assert raft.election_deadline >= three.now + 0.5
    three.now = raft.election_deadline
    three.do("a", lambda raft: raft.tick(three.now))
    assert raft.role is Role.PRE_CANDIDATE


# Rules for servers: candidates


def test_candidates_start_an_election_on_conversion(three):
    """ "On conversion to candidate, start election: increment currentTerm, vote for self, reset election timer, send
    RequestVote RPCs to all other servers"."""
    three.campaign("a")
    real = [message for message in three.sent if isinstance(message, RequestVote) and not message.pre_vote]
    assert {message.recipient for message in real} == {"b", "c"}
    assert {message.term for message in real} == {2}
    assert three.disks["a"].hard_state == HardState(2, "a")


def test_candidates_become_leader_with_votes_from_a_majority(three):
    """ "If votes received from majority of servers: become leader"."""
    three.partition(["a", "b"], ["c"])
    assert three.campaign("a").role is Role.LEADER


def test_candidates_without_a_majority_do_not_become_leader(three):
    """§5.2: a minority elects nobody."""
    three.partition(["a"], ["b", "c"])
    assert three.campaign("a").role is Role.PRE_CANDIDATE


def test_candidates_convert_to_follower_for_a_new_leader(three):
    """ "If AppendEntries RPC received from new leader: convert to follower"."""
    three.partition(["a"], ["b", "c"])
    three.campaign("a")
    three.deliver_anyway(RequestVoteResponse(2, "b", "a", True, True, "folder-b", False, ""))
    assert three.rafts["a"].role is Role.CANDIDATE
    three.deliver_anyway(entries("c", "a", term=2, prev=(1, 1)))
    assert (three.rafts["a"].role, three.rafts["a"].leader_id) == (Role.FOLLOWER, "c")


def test_candidates_start_a_new_election_when_the_election_timeout_elapses(three):
    """ "If election timeout elapses: start new election"."""
    three.partition(["a"], ["b", "c"])
    raft = three.campaign("a")
    three.deliver_anyway(RequestVoteResponse(2, "b", "a", True, True, "folder-b", False, ""))
    assert raft.role is Role.CANDIDATE
    three.heal()
    three.campaign("a")
    assert (raft.role, raft.current_term) == (Role.LEADER, 3)


# Rules for servers: leaders


def test_leaders_send_heartbeats_upon_election_and_during_idle_periods(three):
    """ "Upon election: send initial empty AppendEntries RPCs (heartbeat) to each server; repeat during idle periods to
    prevent election timeouts (§5.2)": here the first carries the no-op."""
    three.elect("a")
    first = [message for message in three.sent if isinstance(message, AppendEntries)]
    assert {message.recipient for message in first} == {"b", "c"}
    assert first[0].entries.payloads == [NO_OP_PAYLOAD]
    three.sent.clear()
    three.run(2.0)
    assert three.leader.node_id == "a"
    heartbeats = [message for message in three.sent if isinstance(message, AppendEntries) and message.recipient == "b"]
    assert 15 <= len(heartbeats) <= 21
    assert not any(len(message.entries) for message in heartbeats)


def test_leaders_append_commands_to_their_log(three):
    """ "If command received from client: append entry to local log, respond after entry applied to state machine"."""
    three.elect("a")
    entry = three.propose("a", "one", "two")
    assert entry == (3, 2)
    assert three.rafts["a"].log.last_index == 4
    with pytest.raises(NotLeader, match="it is a"):
        three.propose("b", "three")


def test_leaders_send_entries_from_next_index(three):
    """ "If last log index ≥ nextIndex …: send AppendEntries RPC with log entries starting at nextIndex"."""
    three.elect("a")
    three.sent.clear()
    three.propose("a", "one", "two")
    (message,) = [each for each in three.sent if isinstance(each, AppendEntries) and each.recipient == "b"]
    assert (message.prev_log_index, message.entries.first_index, message.entries.last_index) == (2, 3, 4)


def test_leaders_update_next_index_and_match_index_on_success(three):
    """ "If successful: update nextIndex and matchIndex for follower (§5.3)"."""
    three.elect("a")
    three.propose("a", "one", "two")
    three.settle()
    progress = three.rafts["a"].progress["b"]
    assert (progress.match_index, progress.next_index) == (4, 5)


def test_leaders_move_next_index_back_on_inconsistency_and_retry(three):
    """ "If AppendEntries fails because of log inconsistency: decrement nextIndex and retry (§5.3)": in few steps, by
    the hint, also where both logs have many entries of several terms."""
    feed(three, "a", *([2] * 20 + [4] * 20))
    feed(three, "b", *([2] * 10 + [3] * 40), sender="c")
    three.deliver(entries("c", "a", term=5, prev=(41, 4)))
    three.deliver(entries("c", "b", term=5, prev=(51, 3)))
    three.crash("c")
    three.cuts.clear()
    three.sent.clear()
    three.elect("a")
    refused = [each for each in three.sent if isinstance(each, AppendEntriesResponse) and not each.success]
    assert 1 <= len(refused) <= 3
    assert three.disks["b"].payloads() == three.disks["a"].payloads()


def test_leaders_commit_what_a_majority_holds(three):
    """ "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and log[N].term ==
    currentTerm: set commitIndex = N (§5.3, §5.4)"."""
    three.elect("a")
    three.partition(["a", "b"], ["c"])
    three.propose("a", "one")
    three.settle()
    assert (three.rafts["a"].commit_index, three.rafts["b"].commit_index) == (3, 3)
    three.partition(["a"], ["b", "c"])
    three.propose("a", "two")
    three.settle()
    assert three.rafts["a"].commit_index == 3


def test_leaders_commit_no_entry_of_an_older_term_by_counting(three):
    """§5.4.2, Figure 8: "Raft never commits log entries from previous terms by counting replicas"."""
    feed(three, "a", 2, 2)
    raft = three.rafts["a"]
    three.partition(["a"], ["b", "c"])
    three.campaign("a")
    three.deliver_anyway(RequestVoteResponse(3, "b", "a", True, True, "folder-b", False, ""))
    three.deliver_anyway(RequestVoteResponse(3, "b", "a", True, False, "folder-b", False, ""))
    assert (raft.role, raft.log.last_index) == (Role.LEADER, 4)
    three.deliver_anyway(AppendEntriesResponse(3, "b", "a", True, 3, 0, 0, 1, "folder-b", 3, 0))
    assert raft.commit_index == 0, "entries 2 and 3 are on a majority, but of term 2"
    three.deliver_anyway(AppendEntriesResponse(3, "b", "a", True, 4, 0, 0, 1, "folder-b", 4, 0))
    assert raft.commit_index == 4


def test_a_leader_counts_itself_only_for_what_is_durable(three):
    """Dissertation §10.2.1: the leader writes to its disk in parallel, so it is one of the majority only afterwards."""
    three.elect("a")
    three.full_disks.add("a")
    three.partition(["a", "b"], ["c"])
    three.propose("a", "one")
    three.settle()
    assert three.rafts["a"].progress["b"].match_index == 3
    assert three.rafts["a"].commit_index == 2
    three.full_disks.clear()
    three.do("a", lambda raft: None)
    assert three.rafts["a"].commit_index == 3


# Persistent state on all servers


def test_persistent_state_is_updated_on_stable_storage_before_responding_to_rpcs(three):
    """ "Updated on stable storage before responding to RPCs": term and vote, then log entries."""
    raft = three.rafts["a"]
    raft.step(vote(three, "b", "a", term=2), three.now)
    assert raft.take_replies() == []
    assert raft.next_message("b", three.now) is None
    raft.hard_state_saved(raft.unsaved_hard_state)
    assert [reply.vote_granted for reply in raft.take_replies()] == [True]

    raft.step(entries("b", "a", term=2, prev=(1, 1), terms=(2,)), three.now)
    assert [reply.match_index for reply in raft.take_replies()] == [1]
    work = raft.take_unstable(three.now)
    assert raft.take_replies() == []
    raft.stable_to(work.entries.last_index, work.entries.last_term)
    assert [reply.match_index for reply in raft.take_replies()] == [2]


def test_a_candidate_asks_nobody_before_its_own_vote_is_durable(three):
    """Else it could vote for another in that term after a crash, and both would count it."""
    raft = three.rafts["a"]
    three.now = raft.election_deadline
    raft.tick(three.now)
    raft.step(RequestVoteResponse(2, "b", "a", True, True, "folder-b", False, ""), three.now)
    assert (raft.role, raft.unsaved_hard_state) == (Role.CANDIDATE, HardState(2, "a"))
    assert raft.next_message("b", three.now) is None
    raft.step(RequestVoteResponse(2, "b", "a", True, False, "folder-b", False, ""), three.now)
    assert raft.role is Role.CANDIDATE, "its own vote does not count yet"
    raft.hard_state_saved(raft.unsaved_hard_state)
    assert raft.role is Role.LEADER
