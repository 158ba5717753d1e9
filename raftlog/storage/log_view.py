"""What a reader of the log sees: one moment's segments, and how entries are read from them (any thread, no lock)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from raftlog.consensus.entries import EntryBatch
from raftlog.exceptions import LogCompacted, LogTruncated
from raftlog.storage.batches import Collected
from raftlog.storage.filesystem import File
from raftlog.storage.layout import damaged
from raftlog.storage.segment import BatchTable, Segment, read_batches


@dataclass(frozen=True, slots=True)
class View:
    """What a reader needs, replaced as a whole except that the open segment's table grows."""

    first_index: int  # of the log; the oldest segment may begin before it
    sealed: tuple[Segment, ...]  # those with live entries
    firsts: tuple[int, ...]  # their first indices
    open_path: str
    open_sequence: int
    open_file: File
    open_first: int
    table: BatchTable


def read_view(
    view: View,
    first_index: int,
    last_index: int,
    max_bytes: int,
    load_table: Callable[[Segment], tuple[File, BatchTable]],
) -> EntryBatch:
    """Entries as LogStore.read() promises them, of `view`; `load_table` gives the file and index of a sealed segment.

    Raises LogCompacted, LogTruncated, LogDamaged, OSError (a file of the view was removed meanwhile, or is unreadable).
    """
    last_held = view.table.last_index
    if first_index < view.first_index:
        raise LogCompacted(f"entry {first_index} is no more held: the log begins at {view.first_index}")
    if first_index > last_held or last_index < first_index:
        raise LogTruncated(f"entries {first_index}-{last_index} are not in the log, which ends at {last_held}")
    collected = Collected(first_index, min(last_index, last_held), max_bytes)
    while not collected.is_full:
        _read_from(view, collected, load_table)
    return EntryBatch(first_index, collected.runs, collected.payloads)


def _read_from(view: View, collected: Collected, load_table: Callable[[Segment], tuple[File, BatchTable]]) -> None:
    """Add what one read of one file gives."""
    index = collected.next_index
    if index >= view.open_first:
        path, sequence, file, table = view.open_path, view.open_sequence, view.open_file, view.table
        end = collected.last_index
    else:
        segment = view.sealed[bisect_right(view.firsts, index) - 1]
        path, sequence, end = segment.path, segment.sequence, segment.last_index
        file, table = load_table(segment)
    for batch in read_batches(path, sequence, file, table, index, collected.bytes_left):
        # A batch that was cut in its middle ends where the next one begins.
        following = bisect_right(table.firsts, batch.first_index)
        stop = table.firsts[following] - 1 if following < len(table.firsts) else end
        batch = batch.slice(collected.next_index, min(stop, end))
        if not batch.payloads:
            raise damaged(path, "a batch ends before the next one begins", entries=f"from {collected.next_index} on")
        collected.add(batch)
        if collected.is_full or collected.next_index > end:
            return  # a sealed segment's footer also lists batches that were cut off later, beyond `end`
