"""What is always true, as code (paper Figure 3). Run after every step of every test.

check_state: true of one server. check_step: true between two states of one server. check_cluster: true
of servers taken together, at one moment; ClusterHistory: over a whole run, restarts included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from raftlog.consensus.log import RaftLog
from raftlog.consensus.server_state import INFINITY, ServerState
from raftlog.consensus.state import HardState, Role

COMPARED_PAYLOADS: Final = 8  # check_cluster compares the payloads of so many of the newest common entries


class InvariantViolated(AssertionError):
    """Something that is always true was not: a bug of raftlog. The text is the sentence, then who and what."""


# Of one server

_Rule = tuple[str, Callable[[ServerState], bool]]

_STATE_RULES: Final[tuple[_Rule, ...]] = (
    (
        "last_applied <= commit_index <= last_index",
        lambda s: s.last_applied <= s.commit_index <= s.log.last_index,
    ),
    (
        "stable_index <= taken_index <= last_index",
        lambda s: s.log.stable_index <= s.log.taken_index <= s.log.last_index,
    ),
    (
        "the memory's window ends at the log's last entry and holds whatever is not stable",
        lambda s: (
            s.log.window_ends_at == s.log.last_index
            and s.log.window_first <= max(s.log.stable_index, s.log.base.index) + 1
        ),
    ),
    (
        "what a log no longer holds is committed, and durable unless the log is just beginning anew",
        lambda s: s.log.base.index <= s.commit_index and (s.log.stable_index or s.log.base.index) >= s.log.base.index,
    ),
    (
        "a server whose database is behind its log neither stands for election nor leads",
        lambda s: not s.lacks_database or (s.role is Role.FOLLOWER and s.election_deadline == INFINITY),
    ),
    (
        "no entry has a term above current_term",
        lambda s: s.log.last_term <= s.current_term,
    ),
    (
        "a server's own id stands as the leader's exactly while it leads",
        lambda s: (s.role is Role.LEADER) == (s.leader_id == s.node_id),
    ),
    (
        "leadership and progress exist exactly on a leader, a candidacy exactly on candidates",
        lambda s: (
            (s.leadership is not None) == (s.role is Role.LEADER)
            and (s.role is Role.LEADER or not s.progress)
            and (s.candidacy is not None) == (s.role in (Role.PRE_CANDIDATE, Role.CANDIDATE))
        ),
    ),
    (
        "candidates and leaders have voted for themselves",
        lambda s: s.role not in (Role.CANDIDATE, Role.LEADER) or s.voted_for == s.node_id,
    ),
    (
        "what is durable is never newer than what is in memory",
        lambda s: s.saved_hard_state.current_term <= s.current_term,
    ),
    (
        "a leader has no election deadline",
        lambda s: s.role is not Role.LEADER or s.election_deadline == INFINITY,
    ),
    (
        "match_index < next_index and match_index <= last_index for every follower",
        lambda s: all(p.match_index < p.next_index and p.match_index <= s.log.last_index for p in s.progress.values()),
    ),
    (
        "the bytes in flight to a follower are the sum of its messages",
        lambda s: all(p.inflight_bytes == sum(m.size for m in p.inflight) for p in s.progress.values()),
    ),
    (
        "uncommitted_bytes is the sum of the leader's own uncommitted proposals",
        lambda s: (
            s.leadership is None or s.leadership.uncommitted_bytes == sum(size for _, size in s.leadership.uncommitted)
        ),
    ),
    (
        "acknowledgements that wait for the disk are of the current term",
        lambda s: all(ack.term == s.current_term for _, ack in s.acks),
    ),
    (
        "for priority's sake leadership is handed only to a voter of higher priority that would lead",
        lambda s: (
            s.leadership is None
            or not s.leadership.transfer_for_priority
            or (
                s.configuration.priority_of(s.leadership.transfer_to) > s.configuration.priority_of(s.node_id)
                and s.leadership.transfer_to in s.configuration.voters
                and s.progress[s.leadership.transfer_to].may_lead
                and not s.configuration.goal_voters
            )
        ),
    ),
    (
        "the configuration in force is the newest in the log",
        lambda s: s.configuration_index == s.log.configuration[0],
    ),
)


def check_state(raft: ServerState) -> None:
    """Raise InvariantViolated with the sentence that is not true of this server."""
    for sentence, is_true in _STATE_RULES:
        if not is_true(raft):
            raise InvariantViolated(f"{sentence}: {_describe(raft)}")


def _describe(s: ServerState) -> str:
    return (
        f"{s.node_id} is {s.role.value} in term {s.current_term} "
        f"(voted_for={s.voted_for!r}, leader_id={s.leader_id!r}, "
        f"last_applied={s.last_applied}, commit_index={s.commit_index}, stable_index={s.log.stable_index}, "
        f"last_log={s.log.last_term}:{s.log.last_index})"
    )


# Between two states of one server


class Observation(NamedTuple):
    """What check_step compares, taken before a step with observe()."""

    role: Role
    current_term: int
    voted_for: str
    leader_id: str
    commit_index: int
    commit_term: int
    last_applied: int
    last_index: int
    generation: int
    saved: HardState


def observe(raft: ServerState) -> Observation:
    is_held = raft.log.base.index <= raft.commit_index <= raft.log.last_index
    commit_term = raft.log.term_at(raft.commit_index) if is_held else 0
    return Observation(
        raft.role,
        raft.current_term,
        raft.voted_for,
        raft.leader_id,
        raft.commit_index,
        commit_term,
        raft.last_applied,
        raft.log.last_index,
        raft.log.generation,
        raft.saved_hard_state,
    )


_StepRule = tuple[str, Callable[[Observation, Observation], bool]]

_STEP_RULES: Final[tuple[_StepRule, ...]] = (
    ("current_term never decreases", lambda b, a: a.current_term >= b.current_term),
    ("commit_index never decreases", lambda b, a: a.commit_index >= b.commit_index),
    ("last_applied never decreases", lambda b, a: a.last_applied >= b.last_applied),
    ("the saved term never decreases", lambda b, a: a.saved.current_term >= b.saved.current_term),
    (
        "within a term a vote, once given, stays",
        lambda b, a: a.current_term != b.current_term or b.voted_for in ("", a.voted_for),
    ),
    (
        "within a term the known leader changes only between nobody and one server",
        lambda b, a: a.current_term != b.current_term or "" in (a.leader_id, b.leader_id) or a.leader_id == b.leader_id,
    ),
    (
        "a leader only appends: it never overwrites or deletes entries in its log (Leader Append-Only)",
        lambda b, a: (
            not (b.role is a.role is Role.LEADER and a.current_term == b.current_term)
            or (a.generation == b.generation and a.last_index >= b.last_index)
        ),
    ),
)


def check_step(before: Observation, after: ServerState) -> None:
    """Raise InvariantViolated with the sentence that this step of one server (no restart) has broken."""
    now = observe(after)
    for sentence, is_true in _STEP_RULES:
        if not is_true(before, now):
            raise InvariantViolated(f"{sentence}: before {before}, now {_describe(after)}")
    if before.commit_term and not after.log.matches(before.commit_index, before.commit_term):
        raise InvariantViolated(
            f"a committed entry never changes: entry {before.commit_index} had term {before.commit_term}, "
            f"now {_describe(after)}"
        )


# Of a cluster


def check_cluster(rafts: Iterable[ServerState]) -> None:
    """Raise InvariantViolated with the property of Figure 3 that does not hold between these servers."""
    servers = list(rafts)
    leaders: dict[int, ServerState] = {}
    for raft in servers:
        if raft.role is Role.LEADER:
            other = leaders.setdefault(raft.current_term, raft)
            if other is not raft:
                raise InvariantViolated(
                    f"at most one leader can be elected in a given term (Election Safety): "
                    f"{other.node_id} and {raft.node_id} lead term {raft.current_term}"
                )
    for one, two in combinations(servers, 2):
        _check_pair(one, two)
    if leaders:
        newest = leaders[max(leaders)]
        for raft in servers:
            _check_leader_completeness(newest, raft)


def _check_pair(one: ServerState, two: ServerState) -> None:
    agree_to = last_agreement(one.log, two.log)
    committed = min(one.commit_index, two.commit_index)
    if agree_to < committed:
        raise InvariantViolated(
            f"no two servers apply different entries at one index (State Machine Safety): entry {agree_to + 1}: "
            f"{_describe(one)}; {_describe(two)}"
        )
    held = max(log.first_index for log in (one.log, two.log))
    first_index = max(held, one.log.window_first, two.log.window_first, agree_to - COMPARED_PAYLOADS + 1)
    if first_index <= agree_to and _payloads(one.log, first_index, agree_to) != _payloads(
        two.log, first_index, agree_to
    ):
        raise InvariantViolated(
            "entries of the same index and term are the same (Log Matching): "
            f"some of {first_index}-{agree_to} on {one.node_id} and {two.node_id}"
        )


def last_agreement(one: RaftLog, two: RaftLog) -> int:
    """The last index up to which two logs hold the same terms. Raises InvariantViolated against Log Matching.

    Where one begins later, both are taken to agree before that: what is not held is committed.
    """
    if one.has_same_terms(two):
        return one.last_index
    earlier, later = sorted((one, two), key=lambda log: log.base.index)
    agreement = min(later.base.index, earlier.last_index)
    differ = agreement == later.base.index and not earlier.matches(agreement, later.base.term)
    if differ:
        agreement -= 1
    for first_index, last_index in _common_stretches(one, two):
        if one.term_at(first_index) != two.term_at(first_index):
            differ = True
        elif differ:
            raise InvariantViolated(
                "logs with an entry of the same index and term are identical up to there (Log Matching): "
                f"entry {first_index} is {one.term_at(first_index)} on both, an earlier one differs"
            )
        else:
            agreement = last_index
    return agreement


def _common_stretches(one: RaftLog, two: RaftLog) -> Iterable[tuple[int, int]]:
    """Stretches of the indices that both hold, within each of which neither's term changes."""
    first = max(one.first_index, two.first_index)
    last = min(one.last_index, two.last_index)
    begins = {run.first_index for log in (one, two) for run in log.term_runs() if first < run.first_index <= last}
    edges = [first, *sorted(begins), last + 1]
    return [(begin, end - 1) for begin, end in pairwise(edges) if begin < end]


def _payloads(log: RaftLog, first_index: int, last_index: int) -> Sequence[bytes]:
    batch = log.slice(first_index, last_index, 1 << 62)
    assert batch is not None
    return batch.payloads


def _check_leader_completeness(leader: ServerState, raft: ServerState) -> None:
    if raft.current_term > leader.current_term:
        return  # an election is going on above this leader
    if last_agreement(leader.log, raft.log) < raft.commit_index:
        raise InvariantViolated(
            "a committed entry is present in the logs of the leaders of all higher terms (Leader Completeness): "
            f"leader {_describe(leader)}; {_describe(raft)}"
        )


class ClusterHistory:
    """Election Safety and State Machine Safety over a whole run: what was true once stays remembered."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        # Terms of the committed entries, index 1 at position 0.
        self.committed_terms: list[int] = []
        self._seen: list[tuple[object, ...]] = []

    def check(self, rafts: Iterable[ServerState]) -> None:
        """Raise InvariantViolated; then remember. Call after every step."""
        servers = list(rafts)
        seen = [
            (raft, raft.role, raft.current_term, raft.commit_index, raft.log.last_index, raft.log.generation)
            for raft in servers
        ]
        if seen == self._seen:
            return  # nothing changed that a property is about
        self._seen = list(seen)
        check_cluster(servers)
        for raft in servers:
            if raft.role is Role.LEADER and self.leaders.setdefault(raft.current_term, raft.node_id) != raft.node_id:
                raise InvariantViolated(
                    "at most one leader can be elected in a given term (Election Safety): "
                    f"{self.leaders[raft.current_term]} led term {raft.current_term}, now {_describe(raft)}"
                )
            self._check_committed(raft)

    def _check_committed(self, raft: ServerState) -> None:
        known = len(self.committed_terms)
        index = min(known, raft.commit_index)
        if index and not raft.log.matches(index, self.committed_terms[index - 1]):
            raise InvariantViolated(
                "a committed entry never changes (State Machine Safety): "
                f"entry {index} was committed with term {self.committed_terms[index - 1]}, now {_describe(raft)}"
            )
        for new in range(known + 1, raft.commit_index + 1):
            # An IndexError here is a snapshot of entries that were never committed.
            self.committed_terms.append(raft.log.term_at(new))
