"""What happened, as values: the runtime logs them, transcripts print them, metrics count them.

str() of an event is its log line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from raftlog.consensus.configuration import Configuration


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `term` is the server's current_term when it happened."""

    term: int

    @property
    def is_warning(self) -> bool:
        """Whether an operator should see it."""
        return False


@dataclass(frozen=True, slots=True)
class BecameFollower(Event):
    leader_id: str = ""

    def __str__(self) -> str:
        return f"became follower in term {self.term} (leader_id={self.leader_id or 'unknown'})"


@dataclass(frozen=True, slots=True)
class LeaderFound(Event):
    """A follower learned who leads this term."""

    leader_id: str = ""

    def __str__(self) -> str:
        return f"follows {self.leader_id} in term {self.term}"


@dataclass(frozen=True, slots=True)
class BecamePreCandidate(Event):
    reason: str = ""

    def __str__(self) -> str:
        return f"became pre-candidate in term {self.term}: {self.reason}"


@dataclass(frozen=True, slots=True)
class BecameCandidate(Event):
    last_log_index: int = 0
    last_log_term: int = 0

    def __str__(self) -> str:
        return f"became candidate in term {self.term} (last_log={self.last_log_term}:{self.last_log_index})"


@dataclass(frozen=True, slots=True)
class ElectionLost(Event):
    pre_vote: bool = False
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = "pre-vote" if self.pre_vote else "election"
        return f"lost the {kind} in term {self.term}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class BecameLeader(Event):
    last_log_index: int = 0
    commit_index: int = 0

    def __str__(self) -> str:
        numbers = f"last_log_index={self.last_log_index}, commit_index={self.commit_index}"
        return f"became leader in term {self.term} ({numbers})"


@dataclass(frozen=True, slots=True)
class SteppedDown(Event):
    """A leader became a follower."""

    reason: str = ""

    @property
    def is_warning(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"stepped down, now in term {self.term}: {self.reason}"


@dataclass(frozen=True, slots=True)
class VoteGranted(Event):
    candidate_id: str = ""

    def __str__(self) -> str:
        return f"voted for {self.candidate_id} in term {self.term}"


@dataclass(frozen=True, slots=True)
class LogTruncated(Event):
    """A follower removed entries that a newer leader does not have (§5.3)."""

    first_index: int = 0
    last_index: int = 0

    def __str__(self) -> str:
        return f"removed the conflicting entries {self.first_index}-{self.last_index} in term {self.term}"


@dataclass(frozen=True, slots=True)
class RecoveryBegan(Event):
    """The leader was told that the disk of `node_id` has lost what it had promised (recovery.py)."""

    node_id: str = ""
    barrier: int = 0

    @property
    def is_warning(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"{self.node_id} repairs its log: it does not vote or count until it has entry {self.barrier}"


@dataclass(frozen=True, slots=True)
class RecoveryEnded(Event):
    """This server has its leader's barrier: what its disk had lost is there again."""

    barrier: int = 0

    def __str__(self) -> str:
        return f"has everything up to entry {self.barrier}, committed and durable: its log is repaired"


@dataclass(frozen=True, slots=True)
class ConfigurationChanged(Event):
    index: int = 0
    configuration: Configuration = field(default_factory=Configuration)

    def __str__(self) -> str:
        members = ", ".join(self.configuration.voters)
        return f"uses the configuration at index {self.index} in term {self.term} (voters: {members})"


@dataclass(frozen=True, slots=True)
class IncarnationMismatch(Event):
    """A peer's folder is not the one that the configuration records (rule 4): it counts for nothing."""

    peer: str = ""
    expected: str = ""
    found: str = ""

    @property
    def is_warning(self) -> bool:
        return True

    def __str__(self) -> str:
        return (
            f"{self.peer} has incarnation {self.found or 'none'}, the configuration records {self.expected or 'none'}: "
            "its log folder was emptied or exchanged, so its votes and acknowledgements do not count"
        )


@dataclass(frozen=True, slots=True)
class TransferStarted(Event):
    to: str = ""
    # "": it was asked to.
    reason: str = ""

    def __str__(self) -> str:
        return f"hands leadership over to {self.to} in term {self.term}" + (self.reason and f": {self.reason}")


@dataclass(frozen=True, slots=True)
class TransferAbandoned(Event):
    TOO_LATE: ClassVar[str] = "did not take leadership over within an election timeout"
    REFUSED: ClassVar[str] = "says that it should not lead just now"

    to: str = ""
    why: str = TOO_LATE

    @property
    def is_warning(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"{self.to} {self.why}; still leads in term {self.term}"


@dataclass(frozen=True, slots=True)
class ChangeAbandoned(Event):
    """A change of the members is given up: these servers were to become voters."""

    servers: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_warning(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"gives up to make voters of {', '.join(self.servers)} in term {self.term}: {self.reason}"


@dataclass(frozen=True, slots=True)
class MemberLeft(Event):
    """A leader has nothing more to send to a server that was removed."""

    peer: str = ""

    def __str__(self) -> str:
        return f"lets {self.peer} go, which was removed"


@dataclass(frozen=True, slots=True)
class RemovedFromCluster(Event):
    """This server is not in the configuration that was committed at `index`: it has nothing to do any more."""

    index: int = 0

    @property
    def is_warning(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"was removed from the cluster by the configuration at index {self.index}"


@dataclass(frozen=True, slots=True)
class SnapshotOffered(Event):
    """A leader's log does not go back far enough for a peer, which is to pull an image."""

    peer: str = ""
    next_index: int = 0
    first_index: int = 0
    snapshot_index: int = 0

    def __str__(self) -> str:
        return (
            f"offers {self.peer} a snapshot: it needs entries from {self.next_index} on, the log begins at "
            f"{self.first_index} (snapshot_index>={self.snapshot_index})"
        )


@dataclass(frozen=True, slots=True)
class SnapshotNeeded(Event):
    """A follower learned that it needs an image."""

    peer: str = ""
    minimum_index: int = 0

    def __str__(self) -> str:
        return f"needs a snapshot that holds entry {self.minimum_index}, offered by {self.peer}"


@dataclass(frozen=True, slots=True)
class SnapshotRestored(Event):
    """An image is on this server's disk; `kept_log`: its own log goes on after it, else the log begins anew there."""

    index: int = 0
    kept_log: bool = True

    def __str__(self) -> str:
        how = "goes on" if self.kept_log else "begins anew"
        return f"restores the snapshot at index {self.index}; its log {how} there"
