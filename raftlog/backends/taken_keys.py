"""What one connection's transaction took from the process's blocks of automatic keys (rule 12), whatever its vendor."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from raftlog.backends.log import TransactionLog


class HasLog(Protocol):
    log: TransactionLog


Owner = TypeVar("Owner", bound=HasLog)


class TakenKeys(Generic[Owner]):
    """Taken, and in the end used, unused or collided. Thread-safety: as its connection."""

    def __init__(self, transaction: Owner) -> None:
        self._transaction = transaction
        self._taken: list[tuple[str, list[int], int]] = []  # table, keys, epoch

    def unused(self) -> None:
        """The transaction changed nothing: what it took can be taken again."""
        blocks = self._transaction.log.key_blocks
        if blocks is not None:
            for table, keys, epoch in reversed(self._taken):
                blocks.give_back(table, keys, epoch)
        self._taken.clear()

    def used(self) -> None:
        """They are in an entry that was applied, or may be."""
        self._taken.clear()

    def collided(self) -> None:
        """A key or unique value was taken already: perhaps one of these."""
        blocks = self._transaction.log.key_blocks
        if blocks is not None:
            for table, _, _ in self._taken:
                blocks.drop(table)
        self._taken.clear()
