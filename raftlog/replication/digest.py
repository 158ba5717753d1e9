"""Hashing all replicated rows of one snapshot, and answering what is asked about its rows afterwards (`raft digest`).

Unlike the sums that apply keeps (fingerprint.py), this reads every row. They are made alike: order-free, a table each.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from raftlog.exceptions import RaftlogError
from raftlog.replication.divergence import ANSWERS, CHUNK, Snapshot, TableReader
from raftlog.replication.fingerprint import MODULUS, row_number
from raftlog.replication.write_set import HASH_BYTES

# What a node does with the digest of one marker.
WAITING: Final = "waiting"  # until the marker is applied
HASHING: Final = "hashing"
DONE: Final = "done"
FAILED: Final = "failed"
ENDED: Final = "ended"


class PinnedReader:
    """A TableReader whose every snapshot is the one that was opened first. Its use is serialized by `lock`."""

    def __init__(self, reader: TableReader) -> None:
        self._reader = reader
        self._stack = contextlib.ExitStack()
        self.lock = threading.Lock()
        self.pinned: Snapshot | None = None

    def pin(self) -> Snapshot:
        """Open the snapshot. Raises what the driver raises."""
        self.pinned = self._stack.enter_context(self._reader.snapshot())
        return self.pinned

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self.lock:
            if self.pinned is None:
                raise RaftlogError("this digest has ended, or has not reached its entry yet")
            yield self.pinned

    def close(self) -> None:
        with self.lock:
            self.pinned = None
            self._stack.close()
            self._reader.close()


def hash_table(reader: TableReader, table: str, on_rows: Callable[[int], None]) -> tuple[int, bytes]:
    """(rows, the sum of their hashes). `on_rows` is called with the size of each chunk; it may raise to end it."""
    rows_seen = total = 0
    after = None
    while True:
        with reader.snapshot() as snapshot:
            rows = snapshot.rows(table, after, None, CHUNK)
        total += sum(row_number(row.image) for row in rows)
        rows_seen += len(rows)
        on_rows(len(rows))
        if len(rows) < CHUNK:
            return rows_seen, (total % MODULUS).to_bytes(HASH_BYTES, "big")
        after = rows[-1].key


def answer_sum(reader: TableReader, arguments: dict[str, Any]) -> bytes:
    """The sum of all rows of a table after one key and up to and with another."""
    total, after = 0, arguments["after"]
    while True:
        with reader.snapshot() as snapshot:
            rows = snapshot.rows(arguments["table"], after, arguments["upto"], CHUNK)
        total += sum(row_number(row.image) for row in rows)
        if len(rows) < CHUNK:
            return (total % MODULUS).to_bytes(HASH_BYTES, "big")
        after = rows[-1].key


# Questions about the rows of a digest's snapshot, by name.
QUESTIONS: Final = {**ANSWERS, "fingerprint_sum": answer_sum}
