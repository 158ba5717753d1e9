"""Batches and directories for the tests of storage."""

from __future__ import annotations

from raftlog.consensus.configuration import Configuration, encode_configuration
from raftlog.consensus.entries import COMMAND, EntryBatch, Run
from raftlog.consensus.snapshot import LogBase
from raftlog.storage import Storage, open_storage

INCARNATION = "ab" * 16


def batch(first_index: int, count: int, *, size: int = 20, term: int = 1, log_time: int = 1000) -> EntryBatch:
    """`count` entries whose payloads name their index."""
    payloads = [
        bytes([COMMAND]) + f"{index}:".encode().ljust(size, b"x") for index in range(first_index, first_index + count)
    ]
    return EntryBatch(first_index, [Run(count, term, log_time)] if count else [], payloads)


def configuration_batch(index: int, cluster_id: str, *, term: int = 1) -> EntryBatch:
    return EntryBatch(index, [Run(1, term, 1000)], [encode_configuration(Configuration(cluster_id))])


def base_at(log, index: int) -> LogBase:
    """What describes the entry at `index`, read from the log."""
    run = log.read(index, index, 1).runs[0]
    return LogBase(index, run.term, run.log_time)


def compact(log, index: int) -> int:
    """Compact to where that gives room, at most to `index`. Returns the new first_index."""
    point = log.compactable_to(index)
    if point > log.base.index:
        log.compact_to(base_at(log, point))
    return log.first_index


def opened(directory: object, **options: object) -> Storage:
    """The storage of node n1, with segments of 8 KiB."""
    options = {"node_id": "n1", "new_incarnation": INCARNATION, "segment_bytes": 8192, **options}
    return open_storage(str(directory), **options)


def all_entries(log) -> list[tuple[int, int, bytes]]:
    """(term, log time, payload) of each entry held."""
    entries = []
    index = log.first_index
    while index <= log.last_index:
        found = log.read(index, log.last_index, 5000)
        stamps = [(run.term, run.log_time) for run in found.runs for _ in range(run.count)]
        entries += [(*stamp, payload) for stamp, payload in zip(stamps, found.payloads, strict=True)]
        index += len(found)
    if entries:
        assert log.read(log.first_index, log.last_index, 1 << 30).payloads == [payload for _, _, payload in entries]
    return entries
