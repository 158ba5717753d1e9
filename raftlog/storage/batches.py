"""Batches cut for writing and joined in reading: nothing here knows of files."""

from __future__ import annotations

from raftlog.consensus.entries import EntryBatch, Run


def split(batch: EntryBatch, max_bytes: int) -> list[EntryBatch]:
    """The batch in pieces of at most `max_bytes` of payload (a larger entry alone); most are one piece.

    Raises InvalidEntry where it is split and breaks a guarantee of its type.
    """
    if len(batch.payloads) == 1 or batch.payload_bytes <= max_bytes:
        return [batch]
    batch.check()  # a piece by itself may look right
    pieces, start, size = [], batch.first_index, 0
    for index, payload in enumerate(batch.payloads, batch.first_index):
        if size and size + len(payload) > max_bytes:
            pieces.append(batch.slice(start, index - 1))
            start, size = index, 0
        size += len(payload)
    return [*pieces, batch.slice(start, batch.last_index)]


class Collected:
    """Entries gathered by one read(): from `next_index` to at most `last_index`, about `bytes_left` more."""

    __slots__ = ("bytes_left", "last_index", "next_index", "payloads", "runs")

    def __init__(self, first_index: int, last_index: int, max_bytes: int) -> None:
        self.next_index = first_index
        self.last_index = last_index
        self.bytes_left = max_bytes
        self.runs: list[Run] = []
        self.payloads: list[bytes] = []

    @property
    def is_full(self) -> bool:
        return bool(self.payloads) and (self.next_index > self.last_index or self.bytes_left <= 0)

    def add(self, batch: EntryBatch) -> None:
        """Add the entries of `batch`, which begins at `next_index`, as far as they are wanted."""
        batch = batch.slice(self.next_index, self.last_index)
        size = batch.payload_bytes
        if size > self.bytes_left:
            batch = self._fitting(batch)
            size = max(batch.payload_bytes, self.bytes_left)  # full now, also where less was taken
        if not batch.payloads:
            self.bytes_left = 0
            return
        self.bytes_left -= size
        self.next_index += len(batch.payloads)
        runs = batch.runs
        if self.runs and self.runs[-1][1:] == runs[0][1:]:
            self.runs[-1] = Run(self.runs[-1].count + runs[0].count, runs[0].term, runs[0].log_time)
            runs = runs[1:]
        self.runs.extend(runs)
        self.payloads.extend(batch.payloads)

    def _fitting(self, batch: EntryBatch) -> EntryBatch:
        """The entries from the beginning of `batch` that fit `bytes_left`; one at least where nothing is there yet."""
        count, left = 0, self.bytes_left
        for payload in batch.payloads:
            left -= len(payload)
            if left < 0:
                break
            count += 1
        if not self.payloads:
            count = max(count, 1)
        return batch.slice(batch.first_index, batch.first_index + count - 1)
