"""Automatic keys of one connection's transaction: taken from the process's blocks, given back if unused (rule 12).

A command takes them from the replicated counter, alike on every node. The sequence behind a key is none of that: it is
moved by transactions that are rolled back, and serves only who inserts without Django.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftlog.backends.exceptions import TransactionConflict
from raftlog.backends.taken_keys import TakenKeys
from raftlog.replication.certify import VerdictKind

if TYPE_CHECKING:
    from raftlog.backends.postgresql.transaction import Transaction  # noqa: F401  (named in the class below)


class TransactionKeys(TakenKeys["Transaction"]):
    """How a transaction takes them."""

    def take(self, table: str, count: int) -> list[int] | None:
        """None: PostgreSQL gives the keys. Raises TransactionConflict, and what the log raises."""
        transaction = self._transaction
        blocks = transaction.log.key_blocks
        if (blocks is None and not transaction.applies) or not self._takes_keys(table):
            return None
        if transaction.applies:
            return transaction.next_keys(table, count)
        assert blocks is not None
        epoch = transaction.key_epoch(table)
        if missing := blocks.missing(table, count, epoch):
            verdict = transaction.log.reserve(table, missing)
            if verdict.kind is VerdictKind.CONFLICT:
                return None  # only this transaction knows the table, having made it: nobody else's rows come between
            if verdict.kind is VerdictKind.APPLIED:
                blocks.add(table, verdict.first_key, missing, verdict.key_epoch)
                epoch = max(epoch, verdict.key_epoch)
        keys = blocks.take(table, count, epoch)
        if keys is None:
            raise TransactionConflict(f"the reserved automatic keys of {table} are used up; nothing was changed")
        self._taken.append((table, keys, epoch))
        return keys

    def _takes_keys(self, table: str) -> bool:
        try:
            with self._transaction.internal():
                return self._transaction.schema.table(table).takes_keys
        except KeyError:  # the statement itself will say what is wrong
            return False
