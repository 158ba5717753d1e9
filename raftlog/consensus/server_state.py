"""Figure 2's "State" box, field by field: what the rule files read and change.

Each rule of Figure 2 is a function over one ServerState; class Raft (raft.py) is a ServerState whose
methods call them.
"""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.events import Event
from raftlog.consensus.log import RaftLog
from raftlog.consensus.messages import AppendEntriesResponse, RaftMessage
from raftlog.consensus.progress import Progress
from raftlog.consensus.settings import RaftSettings
from raftlog.consensus.snapshot import SnapshotWanted, Transfer
from raftlog.consensus.state import HardState, Role

INFINITY = float("inf")


class Candidacy:
    """One (pre-)election of this server."""

    __slots__ = ("asked_at", "incarnations", "is_first_election", "leadership_transfer", "reasons", "votes")

    def __init__(self, *, is_first_election: bool, leadership_transfer: bool) -> None:
        self.votes: dict[str, bool] = {}
        # When each voter was last asked: a voter that does not answer is asked again (§5.1: servers retry RPCs).
        self.asked_at: dict[str, float] = {}
        # The cluster is being formed: every first member must vote, stating an empty log (rule 4 of the design).
        self.is_first_election = is_first_election
        # What the voters of a first election said they are; recorded in entry 1.
        self.incarnations: dict[str, str] = {}
        self.leadership_transfer = leadership_transfer
        self.reasons: list[str] = []


class LeaderRead(NamedTuple):
    """A read that waits on the leader: one of its own, or of the follower `origin`."""

    origin: str
    request_id: int
    # commit_index when its round began; 0 where no entry of the leader's term was committed by then.
    read_index: int = 0


class Leadership:
    """What a server knows only while it leads (Figure 2: "volatile state on leaders", except progress)."""

    __slots__ = (
        "first_own_index",
        "lease_is_over",
        "leaving",
        "leaving_until",
        "look_at",
        "looked_index",
        "quorum_acked_at",
        "read_round",
        "reads_confirmed",
        "reads_in_round",
        "reads_leased",
        "reads_waiting",
        "round",
        "round_began_at",
        "rounds",
        "timeout_now_sent",
        "transfer_deadline",
        "transfer_for_priority",
        "transfer_to",
        "uncommitted",
        "uncommitted_bytes",
    )

    def __init__(self, first_own_index: int, now: float) -> None:
        # Index of this term's first entry. Nothing is committed by counting before it (§5.4.2).
        self.first_own_index = first_own_index
        # Heartbeat rounds: the newest, when it began, and when the older ones began that may yet be acknowledged.
        self.round = 0
        self.round_began_at = float("-inf")
        self.rounds: dict[int, float] = {}
        # The latest time T so that a majority acknowledged something sent at T or later.
        self.quorum_acked_at = now
        # Reads: no round yet; in a round that is under way (its number); confirmed, but nothing of this term committed.
        self.reads_waiting: list[LeaderRead] = []
        self.reads_in_round: deque[tuple[int, list[LeaderRead]]] = deque()
        self.reads_confirmed: list[LeaderRead] = []
        # Under a lease, whose end the clock is to be looked at for once more (reads.confirm_leases).
        self.reads_leased: list[LeaderRead] = []
        # TimeoutNow was sent in this term: no lease any more. Changes: leases.end_lease(). Invariant: stays true.
        self.lease_is_over = False
        # The newest round that reads wait for: every voter gets it at once.
        self.read_round = 0
        # Own entries that are not committed: (last index, bytes) of each proposal.
        self.uncommitted: deque[tuple[int, int]] = deque()
        self.uncommitted_bytes = 0
        self.transfer_to = ""
        self.transfer_deadline = INFINITY
        self.timeout_now_sent = False
        # Whether it is for the sake of priority that this leader hands over. Invariant: then to a higher one.
        self.transfer_for_priority = False
        # When to look next whether another server should lead, and last_index when that was done last (priority.py).
        self.look_at = now
        self.looked_index = first_own_index
        # Servers that the newest configuration does not have any more, with the incarnations that they had: they are
        # sent the log until they know that entry committed, or for two election timeouts (membership.py).
        self.leaving: dict[str, Server] = {}
        self.leaving_until = now


class ServerState:
    """All state of one server. Not thread-safe. Fields are changed by the rule files only."""

    def __init__(
        self,
        *,
        node_id: str,
        incarnation: str,
        settings: RaftSettings,
        log: RaftLog,
        hard_state: HardState,
        rng: random.Random,
        now: float,
        first_members: Configuration | None,
        new_cluster_id: str,
        last_applied: int,
        recovery_id: int = 0,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.settings = settings
        self.rng = rng
        # Members of a cluster that is not formed yet; used only while the log is empty (rule 4 of the design).
        self.first_members = first_members
        self.new_cluster_id = new_cluster_id

        # Persistent state (Figure 2)

        # Latest term this server has seen. Changes: roles.set_term(). Invariant: never decreases.
        # Durable: before any message that depends on it leaves (unsaved_hard_state).
        self.current_term = hard_state.current_term
        # Candidate that received this server's vote in current_term, "" none.
        # Changes: roles.set_term(), request_vote.py. Invariant: within a term, changes once, from "".
        # Durable: before the vote leaves, the own one included.
        self.voted_for = hard_state.voted_for
        # What the disk is known to hold of the two.
        self.saved_hard_state = hard_state
        # Durable: an entry before it is acknowledged, or counted on this server (log.stable_index).
        self.log = log

        # Volatile state (Figure 2)

        # Highest log index known to be stored on a majority, and so safe to apply.
        # Changes: advance_commit_index() on a leader; receive_append_entries() on a follower.
        # Invariant: last_applied <= commit_index <= log.last_index; never decreases.
        # Durable: no. Rebuilt after a restart from the leader's leader_commit; what was applied was committed, and
        # what was compacted was applied.
        self.commit_index = max(last_applied, log.base.index)
        # Highest index applied to the state machine: below log.base.index where the database is gone, or older than
        # the log (install_snapshot.py). Changes: applied_to(), machine_is_at().
        # Invariant: decreases only where the state machine lost its database.
        self.last_applied = last_applied

        # Changes: roles.py. Invariant: only along LEGAL_MOVES.
        self.role = Role.FOLLOWER
        # Whom this server takes for the leader of current_term, "" unknown.
        # Invariant: within a term, changes only between "" and one id; the own id exactly while role is LEADER.
        self.leader_id = ""
        # The newest configuration in the log, committed or not (§6); first_members while the log is empty.
        # Changes: roles.refresh_configuration().
        self.configuration = Configuration()
        self.configuration_index = 0
        # It is committed that this server is no member any more. Changes: membership.py. Invariant: stays true.
        self.is_removed = False
        # Not 0: the disk has lost some of what it had promised (recovery.py). Changes: Raft.recovery_saved(), to 0.
        # Durable: that it is 0, before it is (recovery_finished).
        self.recovery_id = recovery_id
        # The barrier and the term of the leader that named it; 0: none has, yet.
        self.recovery_index = self.recovery_term = 0
        self.recovery_finished = False
        # The host said that this server must not lead. Changes: Raft.withdraw(). Invariant: stays true.
        self.is_withdrawn = False

        # Why this server should not lead just now, in the words of its host (its disk); "": it may.
        # Changes: priority.set_unfit(). Durable: no.
        self.unfit = ""
        # Whether it takes entries nevertheless, while it leads. Changes: Raft.set_unfit().
        self.unfit_takes_entries = False

        # Snapshots (install_snapshot.py)

        # What a leader offered last, until the logs agree. Changes: install_snapshot.py, receive_append_entries().
        self.snapshot_offer: SnapshotWanted | None = None
        # What the image ends with that is being installed: until that is done, nothing is applied to the database of
        # before. Changes: restore_snapshot(), machine_is_at(). Means nothing once last_applied is there.
        self.installing_index = 0
        # How far the pulling of an image is, as the host says. Changes: Raft.report_transfer().
        self.transfer = Transfer()

        # Time-driven rules (timing.py)

        # The latest time that an input carried: "now" for inputs that carry none.
        self.latest_now = now

        # When an election is due; inf where this server may not campaign, or leads.
        self.election_deadline = INFINITY
        # When the current leader was last heard from.
        self.last_heard_at = float("-inf")
        # When the connection to the leader was lost, -inf: it was not, or the leader was heard from since.
        self.suspected_at = float("-inf")

        # Until when nobody but the leader's choice gets this server's vote, itself included (leases.py).
        # Changes: leases.hold_votes(). Invariant: never decreases.
        self.votes_held_until = float("-inf")

        # Invariant: set exactly while role is PRE_CANDIDATE or CANDIDATE.
        self.candidacy: Candidacy | None = None
        # Invariant: set exactly while role is LEADER; so is progress not empty only then.
        self.leadership: Leadership | None = None
        self.progress: dict[str, Progress] = {}

        self._make_outboxes()

        # Reads of a follower: not asked yet; asked of leader_id, by the id of the request.
        self.reads_to_forward: list[int] = []
        self.forwarded_reads: dict[int, list[int]] = {}
        # Begins at random, so that an answer meant for the process before a restart matches nothing.
        self.next_read_request = rng.getrandbits(48)
        # Peers whose incarnation is known to be another than the configuration records: told once.
        self.mismatches: set[str] = set()

    def _make_outboxes(self) -> None:
        # Answers that may leave once the hard state is saved.
        self.replies: list[RaftMessage] = []
        # Acknowledgements that may leave once the own disk has the log up to the index.
        # Invariant: all are of current_term.
        self.acks: list[tuple[int, AppendEntriesResponse]] = []
        self.events: list[Event] = []
        # Own reads that are safe now: (request_id, read_index), 0: refused.
        self.finished_reads: list[tuple[int, int]] = []

    @property
    def unsaved_hard_state(self) -> HardState | None:
        saved = self.saved_hard_state
        if saved.current_term == self.current_term and saved.voted_for == self.voted_for:
            return None
        return HardState(self.current_term, self.voted_for)

    @property
    def lacks_database(self) -> bool:
        """Whether the database is behind what the log still holds, or is just becoming an image, so that only an image
        can bring it up: such a server votes and takes entries, but it applies nothing and does not lead."""
        return self.last_applied < max(self.log.base.index, self.installing_index)

    @property
    def quorum_deadline(self) -> float:
        """When a leader that no majority answers steps down (dissertation §6.2); inf on others."""
        if self.leadership is None:
            return INFINITY
        return self.leadership.quorum_acked_at + self.settings.election_timeout
