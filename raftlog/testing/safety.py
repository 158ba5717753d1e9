"""What must hold after every step of a simulated cluster, checked for the cost of what the step changed.

Figure 3 of the paper, and what our storage promises:

1. Election Safety: at most one leader can be elected in a given term; and a majority has saved its vote for it: of each
   part of its configuration, in the incarnations that are recorded there.
2. Leader Append-Only: a leader never overwrites or deletes entries in its log.
3. Log Matching: if two logs contain an entry with the same index and term, they are identical up to it.
4. Leader Completeness: an entry committed in a term is in the logs of the leaders of all later terms.
5. State Machine Safety: no two servers apply different entries at one index; nor differ in the answer.
6. Commitment: what a leader counts as committed is durable in the logs of a majority of each part of the configuration
   in force at that moment; and it counts for a follower what that has acknowledged in the leader's own term, no more.
   And its own term's entries only: older ones are committed with them (§5.4.2).
7. Within a life of a node, commit index and applied index never go back, nor pass what its log holds.
8. Over crashes, the current term never goes back, a vote given is never changed, and entries that the node
   called durable are still there.
9. A read sees every entry that was committed when it was asked for (checked by the clients).
10. Nothing is applied that the node's own log does not hold durably (rule 5 of the design).
11. A log begins after a committed entry: its base has the term and the configuration of that, and when the log was
    compacted to it, the node's own database had durably applied it. Who becomes leader has a database from where its
   log goes on.
12. Of two configurations that follow each other in a log, any two majorities have a server in common; and a leader
    appends one only when the one before, and an entry of its own term, are committed.

Every other log is looked at only where a node's own changed: by Log Matching, an entry that agrees with the
registered one of that index and term, and with the term before it, agrees in its whole history.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from raftlog.consensus.configuration import Configuration, decode_configuration
from raftlog.consensus.entries import CONFIGURATION
from raftlog.consensus.messages import AppendEntriesResponse, InstallSnapshotResponse
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import Role

if TYPE_CHECKING:
    from raftlog.consensus.raft import Raft


class Violation(AssertionError):
    """An invariant fell. `invariant` is its short name."""

    def __init__(self, invariant: str, text: str) -> None:
        self.invariant = invariant
        self.text = text
        self.html = ""
        super().__init__(f"{invariant}: {text}")


class Seen:
    """What is known of one node, over its whole time."""

    __slots__ = (
        "applied_index",
        "base_index",
        "checked_index",
        "commit_index",
        "configuration",
        "configuration_index",
        "current_term",
        "durable",
        "generation",
        "incarnation",
        "last_index",
        "led_term",
        "voted_for",
    )

    def __init__(self) -> None:
        self.current_term = 0
        self.voted_for = ""
        self.commit_index = 0
        self.applied_index = 0
        # The log as it was at the last check.
        self.generation = 0
        self.last_index = 0
        self.checked_index = 0
        self.led_term = 0
        # Durable end of the log, as the node itself calls it: (index, term).
        self.durable = (0, 0)
        self.incarnation = ""
        self.base_index = 0
        # In force at the last check: what is committed in a step was counted by it.
        self.configuration = Configuration()
        self.configuration_index = 0


class Safety:
    """Incremental checks over all nodes of one cluster."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        # Durable ends of logs that were lost with their disks, by node and incarnation.
        self.gone: dict[tuple[str, str], tuple[int, int]] = {}
        self.leaders: dict[int, str] = {}
        # (term, candidate) -> who voted for it, in which incarnation
        self.votes: dict[tuple[int, str], set[tuple[str, str]]] = {}
        # (term, leader, follower, its incarnation) -> highest index that was acknowledged
        self.acknowledged: dict[tuple[int, str, str, str], int] = {}
        # (index, term) -> (term of the entry before, payload)
        self.entries: dict[tuple[int, int], tuple[int, bytes]] = {}
        # Of all logs: (index, term) -> what a CONFIGURATION entry says. And the newest that is committed.
        self.configurations: dict[tuple[int, int], Configuration] = {}
        self.configuration = Configuration()
        self.configuration_index = 0
        # Indices of all committed ones, ascending.
        self.committed_configurations: list[int] = []
        # index - 1 -> term of the committed entry; and the term in which it was first known to be committed.
        self.committed: list[int] = []
        self.committed_in: list[int] = []
        # index -> (term, payload), and answers by index
        self.applied: dict[int, tuple[int, bytes]] = {}
        self.answers: dict[int, tuple[int, bytes]] = {}

    # After every step of a node

    def check_node(self, raft: Raft) -> None:
        """`raft` has just done something, and has saved its hard state."""
        seen = self.seen[raft.node_id]
        log, committed_before = raft.log, seen.commit_index
        if raft.current_term != seen.current_term or raft.voted_for != seen.voted_for:
            self._check_hard_state(raft, seen)
        if raft.role is Role.LEADER:
            self._check_leader(raft, seen)
        else:
            seen.led_term = 0
        if log.base.index != seen.base_index:
            self._check_base(raft, seen)
        if log.generation != seen.generation or log.last_index != seen.last_index:
            self._check_entries(raft, seen)
        if raft.commit_index != seen.commit_index:
            self._check_commit(raft, seen)
        if raft.last_applied != seen.applied_index:
            self._check_applied(raft, seen)
        if log.stable_index != seen.durable[0] or log.generation != seen.generation:
            seen.durable = self._durable_end(raft, seen, committed_before)
        seen.generation, seen.last_index = log.generation, log.last_index
        seen.configuration, seen.configuration_index = raft.configuration, raft.configuration_index

    def _durable_end(self, raft: Raft, seen: Seen, committed_before: int) -> tuple[int, int]:
        """While a log begins anew, what was committed of the old one counts: the disk may still go either way."""
        log = raft.log
        if log.stable_index >= log.base.index:
            return log.stable_index, log.term_at(log.stable_index)
        index = min(seen.durable[0], committed_before)
        return index, self.committed[index - 1] if index else 0

    def _check_base(self, raft: Raft, seen: Seen) -> None:
        base = raft.log.base
        if base.index < seen.base_index:
            raise Violation("a log's base never goes back", f"{raft.node_id} from {seen.base_index} to {base.index}")
        if base.index > len(self.committed) or self.committed[base.index - 1] != base.term:
            raise Violation(
                "a log begins after a committed entry",
                f"that of {raft.node_id} begins after {base.term}:{base.index}",
            )
        index = max((each for each in self.committed_configurations if each <= base.index), default=0)
        if base.configuration_index != index or base.configuration != self.configurations.get(
            (index, self.committed[index - 1])
        ):
            raise Violation(
                "a base has the configuration in force there",
                f"{raft.node_id} has {base.configuration} of entry {base.configuration_index} at {base.index}, "
                f"the newest there is that of {index}",
            )
        seen.base_index = base.index

    def compacting(self, node_id: str, index: int, durable_index: int) -> None:
        """A node gives up its log up to `index`; its database keeps `durable_index` whatever happens."""
        if index > durable_index:
            raise Violation(
                "compacted is durably applied", f"{node_id} compacts to {index}, its database has {durable_index}"
            )

    def installed(self, node_id: str, base: LogBase) -> None:
        """Its database is an image."""
        seen = self.seen[node_id]
        if base.index > len(self.committed) or self.committed[base.index - 1] != base.term:
            raise Violation("an image ends with a committed entry", f"{node_id} installs {base.term}:{base.index}")
        seen.applied_index = max(seen.applied_index, base.index)

    def _check_hard_state(self, raft: Raft, seen: Seen) -> None:
        if raft.unsaved_hard_state is not None:
            raise Violation("hard state first", f"{raft.node_id} went on with {raft.unsaved_hard_state} unsaved")
        if raft.current_term < seen.current_term:
            raise Violation("term never goes back", f"{raft.node_id} from {seen.current_term} to {raft.current_term}")
        if raft.current_term == seen.current_term and seen.voted_for and raft.voted_for != seen.voted_for:
            raise Violation(
                "one vote a term",
                f"{raft.node_id} voted for {seen.voted_for} and then {raft.voted_for!r} in term {raft.current_term}",
            )
        if raft.recovery_id and raft.voted_for not in ("", seen.voted_for):
            raise Violation(
                "who lost his promises gives none", f"{raft.node_id} votes for {raft.voted_for} and has not recovered"
            )
        seen.current_term, seen.voted_for = raft.current_term, raft.voted_for
        if raft.voted_for:
            self.votes.setdefault((raft.current_term, raft.voted_for), set()).add((raft.node_id, raft.incarnation))

    def _check_leader(self, raft: Raft, seen: Seen) -> None:
        term = raft.current_term
        if seen.led_term == term:
            if raft.log.generation != seen.generation or raft.log.last_index < seen.last_index:
                raise Violation("leader append-only", f"{raft.node_id} removed entries while it led term {term}")
            self._check_progress(raft)
            if raft.configuration_index != seen.configuration_index:
                self._check_one_change(raft, seen)
            return
        other = self.leaders.setdefault(term, raft.node_id)
        if other != raft.node_id:
            raise Violation("election safety", f"{other} and {raft.node_id} both lead term {term}")
        if raft.lacks_database or raft.recovery_id:
            raise Violation(
                "a leader has what it needs",
                f"{raft.node_id} leads term {term}, its database has {raft.last_applied}, its log begins after "
                f"{raft.log.base.index}" + (", and it has not got back what its disk lost" if raft.recovery_id else ""),
            )
        seen.led_term = term
        votes = self.votes.get((term, raft.node_id), set())
        servers = raft.configuration.servers
        for part in (raft.configuration.voters, raft.configuration.outgoing):
            if part and sum((voter, servers[voter].incarnation) in votes for voter in part) * 2 <= len(part):
                raise Violation(
                    "elected by a majority",
                    f"{raft.node_id} leads term {term} by the votes of {sorted(votes)} of {part}",
                )
        index = self._committed_before(term)
        if index and not raft.log.matches(index, self.committed[index - 1]):
            raise Violation(
                "leader completeness",
                f"{raft.node_id} leads term {term} without entry {index} of term {self.committed[index - 1]}, "
                f"which was committed in term {self.committed_in[index - 1]}",
            )

    def _check_progress(self, raft: Raft) -> None:
        term, leader = raft.current_term, raft.node_id
        for peer, progress in raft.progress.items():
            if not progress.match_index:
                continue
            server = raft.configuration.servers.get(peer) or raft.leadership.leaving[peer]  # type: ignore[union-attr]
            acknowledged = self.acknowledged.get((term, leader, peer, server.incarnation), 0)
            if progress.match_index > acknowledged:
                raise Violation(
                    "acknowledged in this term",
                    f"{leader} counts {peer} up to entry {progress.match_index} in term {term}, in which it "
                    f"acknowledged up to {acknowledged}",
                )

    def _check_one_change(self, raft: Raft, seen: Seen) -> None:
        """`raft` has appended a configuration."""
        term, index = raft.current_term, seen.configuration_index
        if raft.commit_index < index or raft.log.term_at(raft.commit_index) != term:
            raise Violation(
                "one change at a time",
                f"{raft.node_id} appends a configuration at {raft.configuration_index} in term {term}, while it has "
                f"committed up to {raft.commit_index} and the configuration in force is at {index}",
            )

    def sent(self, message: AppendEntriesResponse | InstallSnapshotResponse) -> None:
        """A node lets an answer out."""
        if isinstance(message, AppendEntriesResponse) and not message.success:
            return
        key = (message.term, message.recipient, message.sender, message.incarnation)
        if message.match_index > self.acknowledged.get(key, 0):
            self.acknowledged[key] = message.match_index

    def _committed_before(self, term: int) -> int:
        """Highest index known to be committed in an earlier term than `term`."""
        index = len(self.committed)
        while index and self.committed_in[index - 1] >= term:
            index -= 1
        return index

    def _check_entries(self, raft: Raft, seen: Seen) -> None:
        log = raft.log
        first = seen.checked_index + 1
        if log.generation != seen.generation:
            first = min(first, seen.commit_index + 1)
            if log.last_index < seen.commit_index:
                raise Violation("committed entries stay", f"{raft.node_id} cut its log to {log.last_index}")
        first = max(first, log.window_first, log.base.index + 1)
        if log.last_index >= first:
            batch = log.slice(first, log.last_index, 1 << 60)
            if batch is not None:
                self._check_batch(raft, batch, log.term_at(first - 1))
        if raft.configuration_index >= first:
            self._check_configurations(raft, first)
        seen.checked_index = log.last_index

    def _check_configurations(self, raft: Raft, first_index: int) -> None:
        log = raft.log
        for (_, before), (index, after) in pairwise(log.configurations):
            if index < first_index:
                continue
            if not _overlap(before, after):
                raise Violation(
                    "configurations overlap", f"{raft.node_id} has {after} at {index}, which follows {before}"
                )

    def _check_batch(self, raft: Raft, batch: Any, before: int) -> None:
        entries, index, position = self.entries, batch.first_index, 0
        for run in batch.runs:
            for _ in range(run.count):
                mine = (before, batch.payloads[position])
                if mine[1][0] == CONFIGURATION:
                    self.configurations[index, run.term] = decode_configuration(mine[1])
                known = entries.setdefault((index, run.term), mine)
                if known is not mine and known != mine:
                    raise Violation("log matching", f"{raft.node_id} has another entry {index} of term {run.term}")
                before, index, position = run.term, index + 1, position + 1

    def _check_commit(self, raft: Raft, seen: Seen) -> None:
        log, commit_index = raft.log, raft.commit_index
        if commit_index < seen.commit_index:
            raise Violation(
                "commit index never goes back", f"{raft.node_id} from {seen.commit_index} to {commit_index}"
            )
        if commit_index > log.last_index:
            raise Violation(
                "commit index is in the log", f"{raft.node_id} commits {commit_index}, its log ends at {log.last_index}"
            )
        known = len(self.committed)
        for index in range(max(seen.commit_index, log.base.index) + 1, commit_index + 1):
            term = log.term_at(index)
            if index > known:
                self.committed.append(term)
                self.committed_in.append(raft.current_term)
                if (index, term) in self.configurations:
                    self.configuration, self.configuration_index = self.configurations[index, term], index
                    self.committed_configurations.append(index)
            elif self.committed[index - 1] != term:
                raise Violation(
                    "state machine safety",
                    f"{raft.node_id} commits entry {index} of term {term}, another server committed one of term "
                    f"{self.committed[index - 1]} there",
                )
        seen.commit_index = commit_index
        if raft.role is Role.LEADER and commit_index > known:
            self._check_majority(raft, commit_index, seen.configuration)

    def _check_majority(self, raft: Raft, index: int, configuration: Configuration) -> None:
        term = raft.log.term_at(index)
        if term != raft.current_term:
            raise Violation(
                "commit rule",
                f"{raft.node_id}, leader of term {raft.current_term}, commits entry {index} of term {term}",
            )
        servers = configuration.servers
        for part in (configuration.voters, configuration.outgoing):
            holders = [peer for peer in part if self._holds(peer, servers[peer].incarnation, raft, index, term)]
            if part and len(holders) * 2 <= len(part):
                raise Violation(
                    "commitment",
                    f"{raft.node_id} commits entry {index} of term {term} in term {raft.current_term}, durable only on "
                    f"{holders} of {list(part)}",
                )

    def _holds(self, node_id: str, incarnation: str, raft: Raft, index: int, term: int) -> bool:
        if node_id == raft.node_id:
            return raft.log.stable_index >= index
        seen = self.seen.get(node_id)
        if seen is not None and seen.incarnation == incarnation and self._reaches(seen.durable, index, term):
            return True
        return self._reaches(self.gone.get((node_id, incarnation), (0, 0)), index, term)

    def _reaches(self, durable: tuple[int, int], index: int, term: int) -> bool:
        durable_index, durable_term = durable
        if durable_index < index:
            return False
        # By Log Matching: the logs agree up to the last entry that they share; go back to it by terms.
        while durable_index > index and durable_term > term:
            durable_index, durable_term = durable_index - 1, self.entries[(durable_index, durable_term)][0]
        return durable_term == term

    def _check_applied(self, raft: Raft, seen: Seen) -> None:
        if raft.last_applied < seen.applied_index:
            raise Violation("applied index never goes back", f"{raft.node_id}")
        if raft.last_applied > min(raft.commit_index, raft.log.stable_index):
            raise Violation(
                "applied is committed and durable here",
                f"{raft.node_id} applied {raft.last_applied}, committed {raft.commit_index}, "
                f"durable {raft.log.stable_index}",
            )
        seen.applied_index = raft.last_applied

    # From the state machines

    def entry_applied(self, node_id: str, index: int, term: int, payload: bytes) -> None:
        known = self.applied.setdefault(index, (term, payload))
        if known != (term, payload):
            raise Violation("state machine safety", f"{node_id} applies another entry {index}, of term {term}")

    def answered(self, node_id: str, index: int, status: int, result: bytes) -> None:
        known = self.answers.setdefault(index, (status, result))
        if known != (status, result):
            raise Violation(
                "machines agree", f"{node_id} answers entry {index} with {result!r}, another with {known[1]!r}"
            )

    # Over restarts

    def crashed(self, raft: Raft) -> None:
        """`raft` is no more, maybe in the middle of a step: what it had called durable by then must survive."""
        seen = self.seen[raft.node_id]
        seen.durable = self._durable_end(raft, seen, seen.commit_index)

    def check_restart(self, raft: Raft, machine_index: int, machine_term: int) -> None:
        """`raft` was just built from what its disk holds."""
        node_id, log = raft.node_id, raft.log
        seen = self.seen.get(node_id) or Seen()
        if raft.current_term < seen.current_term:
            raise Violation(
                "term never goes back", f"{node_id} restarts in {raft.current_term}, was in {seen.current_term}"
            )
        if raft.current_term == seen.current_term and seen.voted_for and raft.voted_for != seen.voted_for:
            raise Violation(
                "one vote a term",
                f"{node_id} voted for {seen.voted_for} in term {seen.current_term}, and after a restart for "
                f"{raft.voted_for!r}",
            )
        index, term = seen.durable
        if not log.matches(index, term):
            raise Violation(
                "durable entries survive",
                f"{node_id} had entry {index} of term {term} durable; after a restart its log ends at {log.last_index}",
            )
        if machine_index and not raft.recovery_id and not log.matches(machine_index, machine_term):
            raise Violation(
                "applied is durable here",
                f"{node_id} applied entry {machine_index} of term {machine_term}, which its own log does not hold",
            )
        self.seen[node_id] = fresh = Seen()
        fresh.current_term, fresh.voted_for = raft.current_term, raft.voted_for
        if raft.voted_for:  # it may have been saved in the very call that power was lost in
            self.votes.setdefault((raft.current_term, raft.voted_for), set()).add((node_id, raft.incarnation))
        fresh.incarnation = raft.incarnation
        fresh.configuration, fresh.configuration_index = raft.configuration, raft.configuration_index
        fresh.commit_index, fresh.applied_index = raft.commit_index, raft.last_applied
        fresh.base_index = log.base.index
        fresh.durable = (log.last_index, log.last_term)
        fresh.last_index = fresh.checked_index = log.last_index

    def forget(self, node_id: str) -> None:
        """Its disk was emptied: it is another server now (rule 4 of the design).

        What it acknowledged before still counts: it votes no more, so every majority that can elect still has a
        server among them that holds it.
        """
        seen = self.seen.pop(node_id, None)
        if seen is not None:
            self.gone[node_id, seen.incarnation] = seen.durable

    def repaired(self, node_id: str) -> None:
        """Its disk lost some of what it had promised: until that is there again it promises nothing.

        As in forget(), what it acknowledged still counts.
        """
        self.forget(node_id)

    # For those who plan what is to happen

    def possible(self) -> list[Configuration]:
        """What is in force, or may come to be: the newest committed configuration and all that may follow it."""
        after = [each for (index, _), each in self.configurations.items() if index > self.configuration_index]
        return [self.configuration, *after]


def _overlap(before: Configuration, after: Configuration) -> bool:
    """Whether each majority of the one has a server in common with each majority of the other (§6)."""
    if before.is_joint or after.is_joint:
        return bool({before.voters, before.outgoing} & {after.voters, after.outgoing} - {()})
    return before.voters == after.voters
