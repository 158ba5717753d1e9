"""What a transaction may meet at commit. All are Django database errors, so `except OperationalError` finds them."""

from __future__ import annotations

from django.db.utils import IntegrityError, OperationalError

from raftlog import exceptions
from raftlog.replication.certify import Verdict, VerdictKind


class TransactionConflict(exceptions.RaftlogError, OperationalError):
    """Another transaction changed what this one had read or written. Nothing was changed; running it again is safe."""


class UniqueConflict(TransactionConflict, IntegrityError):
    """A key or unique value of this transaction was taken by a concurrent one. Nothing was changed."""


class TransactionOutcomeUnknown(exceptions.OutcomeUnknown, OperationalError):
    """No answer came in time: the transaction may have been committed, or may be yet. `proposal_id` is to ask by."""


class TransactionNotProposed(exceptions.NotProposed, OperationalError):
    """The transaction did not get into the log: no leader, no node, too much waiting. Nothing was done."""


class TurnExpired(exceptions.RaftlogError, OperationalError):
    """A transaction held the host's write turn for longer than its limit; it was rolled back, nothing was changed."""


class TransactionTooLarge(exceptions.PayloadTooLarge, OperationalError):
    """A transaction is larger than MAX_TRANSACTION_BYTES. Nothing was changed."""


class NotReplicable(exceptions.RaftlogError, OperationalError):
    """A statement that this backend refuses, because its effect could not be the same on all nodes."""


class DatabaseReplaced(exceptions.DatabaseReplaced, OperationalError):
    """The database file was deleted, renamed or replaced under this process. Nothing was written to the old one."""


class DatabaseMissing(exceptions.RaftlogError, OperationalError):
    """There is no database file, and nobody makes one now. The message says how to start the node, which does."""


def conflict(verdict: Verdict) -> Exception:
    """The exception that a verdict against a transaction becomes at its commit."""
    if verdict.kind is VerdictKind.UNIQUE_CONFLICT:
        return UniqueConflict(f"a concurrent transaction was first: {verdict.reason}")
    if verdict.kind is VerdictKind.INTEGRITY:
        return IntegrityError(verdict.reason)
    return TransactionConflict(f"{verdict.reason}; nothing was changed")
