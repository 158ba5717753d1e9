"""The twins in memory forget what was not synced, and nothing else."""

from __future__ import annotations

import pytest

from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.state import HardState, TermRun
from raftlog.exceptions import DiskFull, LogCompacted, LogTruncated, StorageFailed
from raftlog.storage.memory import MemoryHardState, MemoryLog
from tests.storage.helpers import batch, compact, configuration_batch


def test_crash_forgets_what_was_not_synced():
    log = MemoryLog()
    log.append(batch(1, 3))
    log.sync()
    log.append(batch(4, 4))
    log.crash(surviving=1)
    assert log.last_index == 4
    assert log.read(1, 9, 1 << 20) == batch(1, 4)
    log.append(batch(5, 1))
    log.crash()
    assert log.last_index == 4


def test_truncation_is_durable():
    log = MemoryLog()
    log.append(batch(1, 5))
    log.truncate_from(3)
    log.crash()
    assert log.last_index == 2
    with pytest.raises(LogTruncated):
        log.read(3, 3, 10)


def test_reads_are_limited_and_runs_are_joined():
    log = MemoryLog()
    log.append(EntryBatch(1, [Run(1, 1, 1), Run(1, 1, 2)], [b"\3a", b"\3b"]))
    log.append(EntryBatch(3, [Run(1, 1, 2)], [b"\3c"]))
    assert log.read(1, 3, 100).runs == [Run(1, 1, 1), Run(2, 1, 2)]
    assert log.read(1, 3, 1).last_index == 1
    assert log.read(1, 3, 4).last_index == 2


def test_compaction():
    log = MemoryLog()
    log.append(batch(1, 5, term=2))
    assert compact(log, 3) == 4
    assert log.term_runs() == [TermRun(4, 2)]
    with pytest.raises(LogCompacted):
        log.read(3, 4, 10)


def test_configurations():
    log = MemoryLog()
    log.append(batch(1, 1))
    log.append(configuration_batch(2, "x"))
    assert log.configuration_indices() == [2]


def test_full_and_failing():
    log = MemoryLog()
    log.is_full = True
    with pytest.raises(DiskFull):
        log.append(batch(1, 1))
    log.is_full = False
    log.append(batch(1, 1))
    log.fails = True
    with pytest.raises(StorageFailed):
        log.sync()
    log.fails = False
    with pytest.raises(StorageFailed):
        log.append(batch(2, 1))
    log.crash()
    assert log.last_index == 0


def test_hard_state_is_saved_or_fails():
    store = MemoryHardState()
    store.save(HardState(1, "n1"))
    store.fails = True
    with pytest.raises(StorageFailed):
        store.save(HardState(2, "n1"))
    store.crash()
    assert store.load() == HardState(1, "n1")
