"""Automatic keys of one connection's transaction: taken from the process's blocks, given back if unused (rule 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftlog.backends.exceptions import TransactionConflict
from raftlog.backends.sqlite3.interlude import can_pause, without_turn
from raftlog.backends.taken_keys import TakenKeys
from raftlog.replication.certify import VerdictKind

if TYPE_CHECKING:
    from raftlog.backends.sqlite3.transaction import Transaction  # noqa: F401  (named in the class below)


class TransactionKeys(TakenKeys["Transaction"]):
    """How a transaction takes them."""

    def take(self, table: str, count: int) -> list[int] | None:
        """None: SQLite gives the keys. Raises TransactionConflict."""
        blocks = self._transaction.log.key_blocks
        if blocks is None or self._transaction.applies:  # a command draws from the counter, alike on every node
            return None
        transaction = self._transaction
        if not transaction.has_key_counter(table):
            return None
        if not transaction.turn.held:
            epoch = self._refill(table, count)
        else:
            epoch = transaction.key_epoch(table)
            if blocks.missing(table, count, epoch):
                if not can_pause(transaction):
                    return None  # a schema entry: nobody else's rows come between
                without_turn(transaction, lambda: self._refill(table, count))
                epoch = transaction.key_epoch(table)
        keys = blocks.take(table, count, epoch)
        if keys is None:
            raise TransactionConflict(f"the reserved automatic keys of {table} are used up; nothing was changed")
        self._taken.append((table, keys, epoch))
        return keys

    def reserve(self, table: str, count: int) -> None:
        transaction = self._transaction
        if transaction.log.key_blocks is None or transaction.applies or transaction.turn.held:
            return
        if transaction.has_key_counter(table):
            self._refill(table, count)

    def _refill(self, table: str, count: int) -> int:
        """Refill the block if it must be, and return the epoch of the table's counter. Called without the turn."""
        transaction = self._transaction
        blocks = transaction.log.key_blocks
        assert blocks is not None
        transaction.notice_database()
        epoch = transaction.key_epoch(table)
        missing = blocks.missing(table, count, epoch)
        if missing:
            verdict = transaction.log.reserve(table, missing)
            if verdict.kind is VerdictKind.APPLIED:
                blocks.add(table, verdict.first_key, missing, verdict.key_epoch)
                epoch = max(epoch, verdict.key_epoch)
        return epoch
