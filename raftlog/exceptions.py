"""Every error of raftlog. A class's docstring is what it means to the one who catches it."""

from __future__ import annotations


class RaftlogError(Exception):
    """Base of all errors that raftlog raises."""


# What a caller of propose() may meet


class ProposalError(RaftlogError):
    """A proposal was not answered with a result."""


class NotProposed(ProposalError):
    """Nothing was done, and nothing will be: the proposal never entered a log. It is safe to try again."""


class NoLeader(NotProposed):
    """No leader could be reached in time (no majority is up, or an election is going on). Nothing was done."""


class NotLeader(NotProposed):
    """This server is not the leader. `leader_id` names who is, as far as it knows ("" where it does not)."""

    def __init__(self, leader_id: str = "") -> None:
        self.leader_id = leader_id
        super().__init__(f"not the leader; it is {leader_id}" if leader_id else "not the leader, and none is known")


class Overloaded(NotProposed):
    """Too much is waiting already. Nothing was done; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 0.1) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class NotNow(Overloaded):
    """The leader takes nothing for a moment, since it hands over or its disk is full; the text says why."""


class ConfigurationChangeRefused(NotProposed):
    """The members were not changed; the text says why: another change is under way or was first, or it cannot be."""


class PayloadTooLarge(NotProposed):
    """A command is larger than a limit. Nothing was done."""


class CommandNotSupported(NotProposed):
    """A member that votes does not know this command in this version, so no leader proposes it: it has older code, or
    had when it was last heard. Nothing was done; the text names the members. Try again once they are upgraded."""


class NodeCannotApply(NotProposed):
    """This host's node has met an entry that its code cannot apply, and stands still before it. Nothing was done.
    Install the code that knows it and restart the node; nothing was skipped."""


class NodeUnavailable(NotProposed):
    """The local node cannot be reached: is `manage.py raft run` running on this host?"""


class NodeDiverged(NotProposed):
    """This host's database differs from that of the cluster's majority, so its node takes no proposals and serves no
    linearizable reads. Nothing was done. `raft status` says what differs and what to do."""


class OutcomeUnknown(ProposalError):
    """No answer came in time and the proposal may have been committed, or may be yet.

    `proposal_id` is what to ask by (`raftlog.outcome(proposal_id)`); trying again with the same id is safe.
    """

    def __init__(self, message: str, proposal_id: str) -> None:
        self.proposal_id = proposal_id
        super().__init__(f"{message} (proposal {proposal_id})")


class SessionExpired(ProposalError):
    """The session of this proposal is unknown to the cluster or has expired; it was not applied now."""


class CommandFailed(RaftlogError):
    """The command raised on every node alike; its changes were rolled back. `type_name` and the text say what."""

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text
        super().__init__(f"{type_name}: {text}")


class NotMigrated(RaftlogError):
    """A table or column that the command uses was not in the replicated database: recorded alike on every node.

    Its changes were rolled back. Run `manage.py migrate`, then propose it again."""


class IdempotencyKeyReused(RaftlogError):
    """An idempotency key that stands for something else already: other arguments, or another operation.

    Nothing was done. Give each operation a key of its own, and the same key only to repeat it unchanged."""


class InsideTransaction(RaftlogError):
    """What was called cannot be done inside an open transaction of the replicated database: propose() would wait for
    itself, linearizable() would go on reading an old snapshot. The text says what to do."""


class InvalidArguments(RaftlogError, TypeError):
    """The arguments of a command do not fit its signature, or cannot be encoded. Nothing was proposed."""


# Reading


class ReadNotConfirmed(RaftlogError):
    """Nobody confirmed in time that this host's database holds what was committed, or what was asked for. Nothing was
    read; the text says why. Try again, or read this host's database as it stands."""


class TooStale(ReadNotConfirmed):
    """This host's database is, or may be, further behind the cluster than was allowed.

    `behind`: seconds since a leader last confirmed it to this process; math.inf where none has.
    """

    def __init__(self, message: str, behind: float) -> None:
        self.behind = behind
        super().__init__(message)


# The core


class InvalidEntry(RaftlogError):
    """An entry or a batch of entries breaks a guarantee of its type."""


class ProtocolViolation(RaftlogError):
    """A message that no correct server of this cluster sends."""


# Storage


class StorageError(RaftlogError):
    """Base of what storage raises."""


class StorageFailed(StorageError):
    """A write or an fsync failed. What is on disk is not known any more, so this process must stop."""


class DiskFull(StorageError):
    """There is no room for an append. The log is unharmed; appends can be tried again when there is room."""


class LogDamaged(StorageError):
    """The log or its metadata on disk is not what was written; the message says file, offset, indices, what to do.

    `path`, `offset` (bytes; None: the whole file), `what` and `entries` (which it affects, in words) are its parts.
    """

    path = ""
    offset: int | None = None
    what = ""
    entries = ""


class LogCompacted(StorageError):
    """The entries asked for are older than what the log still holds."""


class LogTruncated(StorageError):
    """The entries asked for were removed by a truncation meanwhile."""


class DirectoryInUse(StorageError):
    """Another process owns this log directory."""


class IdentityMismatch(StorageError):
    """The directory belongs to another node or another cluster than the settings say."""


# Images


class ImageError(RaftlogError):
    """An image of the database could not be made, read or installed; the text says why and what to do."""


class ImageDamaged(ImageError):
    """The file of an image is not what was written; the message says file, chunk and bytes."""


# Transport


class TransportError(RaftlogError):
    """Base of what the wire raises."""


class HandshakeRefused(TransportError):
    """The other side refused the connection; `code` is the WebSocket close code, the text its reason."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{reason} (close code {code})")


class FrameRefused(TransportError):
    """A frame was too large, badly authenticated or not decodable. The message names the field and the limit;
    `code` is the WebSocket close code that the sender of the frame gets."""

    def __init__(self, message: str, code: int = 4400) -> None:
        self.code = code
        super().__init__(message)


# Change feed


class ChangeFeedOff(RaftlogError):
    """This host keeps no change feed; the text says why and what to do."""


# Apply


class ApplyStopped(RaftlogError):
    """This node cannot apply an entry (an unknown command, an error not the command's own). Nothing is skipped."""


class UnknownEntry(ApplyStopped):
    """This node's code knows no such command, version, argument or kind of entry; newer code may."""


class DatabaseLost(ApplyStopped):
    """The database lacks entries that neither the log nor any other member has; the text says what to do."""


class DatabaseReplaced(ApplyStopped):
    """The database was deleted, renamed or replaced, or set back, under a process that has it open.

    The node goes on from what it finds there, and applies again what that lacks."""
