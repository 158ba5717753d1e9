"""Automatic keys from blocks that a process has reserved through the log (rule 12).

Two nodes that insert at once would both take the counter's next value. So a process reserves a block first:
an entry moves the database's own counter (`sqlite_sequence`) on every node, past the block, and its verdict
says where the block begins. Within a block keys are handed out without asking anybody.

A counter's *epoch* is the index of the last entry that set it back; blocks of an older epoch are void.
Blocks are refilled before the host's turn is taken, never while it is held: the reservation could not be
applied.

Thread-safety: any thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Final

FIRST_BLOCK: Final = 64
LARGEST_BLOCK: Final = 16_384


@dataclass(slots=True)
class _Blocks:
    """Keys of one table that this process may still use: ranges, both ends inclusive, lowest first."""

    epoch: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    next_size: int = FIRST_BLOCK

    @property
    def left(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)


class KeyBlocks:
    """The blocks of one process in one database. A forked child reserves its own."""

    def __init__(self) -> None:
        self._start_over()
        _all_blocks.add(self)

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[str, _Blocks] = {}

    def take(self, table: str, count: int, epoch: int) -> list[int] | None:
        """`count` keys in ascending order, or None where the blocks of this epoch do not hold that many."""
        with self._lock:
            blocks = self._of(table, epoch)
            if blocks.left < count:
                return None
            keys: list[int] = []
            while len(keys) < count:
                first, last = blocks.ranges.pop(0)
                taken = min(last, first + count - len(keys) - 1)
                keys.extend(range(first, taken + 1))
                if taken < last:
                    blocks.ranges.insert(0, (taken + 1, last))
            return keys

    def give_back(self, table: str, keys: list[int], epoch: int) -> None:
        """These keys were not used after all: they are the next ones."""
        with self._lock:
            blocks = self._tables.get(table)
            if blocks is None or blocks.epoch != epoch:
                return
            blocks.ranges = _joined([*blocks.ranges, *((key, key) for key in keys)])

    def add(self, table: str, first: int, count: int, epoch: int) -> None:
        """A reservation was applied."""
        with self._lock:
            blocks = self._of(table, epoch)
            if blocks.epoch == epoch:
                blocks.ranges = _joined([*blocks.ranges, (first, first + count - 1)])
                blocks.next_size = min(blocks.next_size * 2, LARGEST_BLOCK)

    def missing(self, table: str, count: int, epoch: int) -> int:
        """How many keys to reserve so that `count` can be taken; 0: they are there."""
        with self._lock:
            blocks = self._of(table, epoch)
            return 0 if blocks.left >= count else max(blocks.next_size, count - blocks.left)

    def drop(self, table: str) -> None:
        """A key of a block was taken by somebody else: none of them is trusted any more."""
        with self._lock:
            self._tables.pop(table, None)

    def drop_all(self) -> None:
        """The cluster is another (a restore, a recovery): its counters may have gone back."""
        with self._lock:
            self._tables.clear()

    def _of(self, table: str, epoch: int) -> _Blocks:
        blocks = self._tables.get(table)
        if blocks is None or blocks.epoch < epoch:
            blocks = self._tables[table] = _Blocks(epoch)
        return blocks


_all_blocks: weakref.WeakSet[KeyBlocks] = weakref.WeakSet()


def _leave_keys_to_the_parent() -> None:
    for blocks in list(_all_blocks):
        blocks._start_over()


os.register_at_fork(after_in_child=_leave_keys_to_the_parent)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and found[-1][1] + 1 >= first:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found
