"""The log on disk keeps what LogStore promises."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import TermRun
from raftlog.exceptions import DiskFull, InvalidEntry, LogCompacted, LogTruncated, StorageFailed
from raftlog.storage.inspect import open_for_reading
from raftlog.storage.memory import MemoryLog
from raftlog.testing.crash_disk import CrashDisk
from tests.storage.helpers import all_entries, base_at, batch, compact, configuration_batch, opened


@pytest.fixture
def storage(tmp_path):
    storage = opened(tmp_path)
    yield storage
    storage.close()


def test_empty_log(storage):
    log = storage.log
    assert (log.first_index, log.last_index) == (1, 0)
    assert log.term_runs() == []
    with pytest.raises(LogTruncated, match="ends at 0"):
        log.read(1, 1, 1)


def test_append_read_and_reopen(tmp_path, storage):
    first = EntryBatch(1, [Run(2, 1, 5), Run(1, 3, 9)], [b"\x03a", b"\x03b", b"\x00"])
    storage.log.append(first)
    storage.log.append(batch(4, 100, term=3, log_time=9))
    storage.log.sync()
    assert storage.log.read(1, 3, 10_000) == first
    assert storage.log.term_runs() == [TermRun(1, 1), TermRun(3, 3)]
    entries = all_entries(storage.log)
    storage.close()
    storage = opened(tmp_path)
    assert all_entries(storage.log) == entries
    assert storage.log.term_runs() == [TermRun(1, 1), TermRun(3, 3)]
    assert storage.torn_tail is None
    storage.close()


def test_read_gives_at_least_one_entry_and_stops_at_max_bytes(storage):
    log = storage.log
    log.append(batch(1, 10, size=99))
    log.append(batch(11, 10, size=99))
    assert log.read(3, 20, 0).last_index == 3
    assert log.read(3, 20, 250).last_index == 4
    assert log.read(3, 20, 1000).last_index == 12
    assert log.read(3, 8, 1 << 20) == batch(3, 6, size=99)
    assert log.read(3, 20, 1 << 20) == batch(3, 18, size=99)


def test_read_outside_of_the_log(storage):
    storage.log.append(batch(1, 3))
    with pytest.raises(LogCompacted):
        storage.log.read(0, 3, 100)
    with pytest.raises(LogTruncated):
        storage.log.read(4, 5, 100)
    assert storage.log.read(3, 99, 100).last_index == 3


def test_segments_roll_and_are_read_across(tmp_path, storage):
    for index in range(1, 400, 4):
        storage.log.append(batch(index, 4, size=200))
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".segment")]) > 5
    assert all_entries(storage.log) == [(1, 1000, payload) for payload in batch(1, 400, size=200).payloads]
    assert storage.log.read(1, 400, 1 << 20) == batch(1, 400, size=200)


def test_every_segment_file_has_the_size_it_was_made_with(tmp_path, storage):
    for index in range(1, 100, 4):
        storage.log.append(batch(index, 4, size=200))
    sizes = {os.path.getsize(tmp_path / name) for name in os.listdir(tmp_path) if name.endswith(".segment")}
    assert sizes == {8192}


def test_batch_larger_than_a_segment_gets_one_of_its_own(tmp_path, storage):
    log = storage.log
    log.append(batch(1, 1))
    log.append(batch(2, 3, size=30_000))
    log.append(batch(5, 1))
    log.sync()
    expected = [*batch(1, 1).payloads, *batch(2, 3, size=30_000).payloads, *batch(5, 1).payloads]
    assert [payload for _, _, payload in all_entries(log)] == expected
    storage.close()
    storage = opened(tmp_path)
    assert [payload for _, _, payload in all_entries(storage.log)] == expected
    storage.close()


def test_batch_must_follow_the_last_entry_and_its_term(storage):
    storage.log.append(batch(1, 2, term=4))
    with pytest.raises(ValueError, match="does not follow entry 2"):
        storage.log.append(batch(4, 1, term=4))
    with pytest.raises(ValueError, match="does not follow term 4"):
        storage.log.append(batch(3, 1, term=3))
    storage.log.append(batch(3, 0))
    assert storage.log.last_index == 2


@pytest.mark.parametrize(
    "bad",
    [
        EntryBatch(1, [Run(2, 1, 1)], [b"\x03"]),
        EntryBatch(1, [Run(1, 0, 1)], [b"\x03"]),
        EntryBatch(1, [Run(1, 2, 1), Run(1, 1, 1)], [b"\x03", b"\x03"]),
        EntryBatch(1, [Run(1, 1, 2), Run(1, 1, 1)], [b"\x03", b"\x03"]),
        EntryBatch(1, [Run(1, 1, 1)], [b""]),
        EntryBatch(1, [Run(1, 1, 1)], [b"\x63"]),
    ],
)
def test_batch_that_breaks_a_guarantee_is_refused_and_nothing_is_written(storage, bad):
    with pytest.raises(InvalidEntry):
        storage.log.append(bad)
    storage.log.append(batch(1, 1))
    assert storage.log.last_index == 1


def test_configurations_are_found_also_after_reopening(tmp_path, storage):
    log = storage.log
    log.append(batch(1, 2))
    log.append(configuration_batch(3, "first"))
    for index in range(4, 104, 10):
        log.append(batch(index, 10, size=150))
    log.append(configuration_batch(104, "second"))
    log.sync()
    assert log.configuration_indices() == [3, 104]
    storage.close()
    storage = opened(tmp_path)
    assert storage.log.configuration_indices() == [3, 104]
    storage.log.truncate_from(104)
    assert storage.log.configuration_indices() == [3]
    storage.close()


def test_large_batch_is_written_in_pieces_with_one_write():
    disk = CrashDisk()
    storage = opened("d", filesystem=disk, segment_bytes=4 << 20)
    calls = disk.calls
    large = EntryBatch(1, [Run(7, 1, 1), Run(13, 2, 2)], batch(1, 20, size=90_000).payloads)
    storage.log.append(large)
    assert disk.calls == calls + 1
    assert len(storage.log._open.table.firsts) == 10
    assert storage.log.read(1, 20, 4 << 20) == large
    assert storage.log.term_runs() == [TermRun(1, 1), TermRun(8, 2)]
    storage.log.sync()
    storage = opened("d", filesystem=disk.after_crash((False,) * disk.pending_count()))
    assert storage.log.read(1, 20, 4 << 20) == large
    assert storage.log.term_runs() == [TermRun(1, 1), TermRun(8, 2)]


@pytest.mark.parametrize("index", [1, 2, 7, 50, 199, 200])
def test_truncated_entries_never_come_back(tmp_path, storage, index):
    log = storage.log
    for first_index in range(1, 200, 10):
        log.append(batch(first_index, 10, size=100))
    log.truncate_from(index)
    assert log.last_index == index - 1
    with pytest.raises(LogTruncated):
        log.read(index, 300, 10)
    log.append(batch(index, 5, size=333, term=2))
    log.sync()
    expected = [*batch(1, index - 1, size=100).payloads, *batch(index, 5, size=333).payloads]
    assert [payload for _, _, payload in all_entries(log)] == expected
    storage.close()
    storage = opened(tmp_path)
    assert [payload for _, _, payload in all_entries(storage.log)] == expected
    runs = [TermRun(1, 1), TermRun(index, 2)] if index > 1 else [TermRun(1, 2)]
    assert storage.log.term_runs() == runs
    storage.close()


def test_truncation_behind_the_end_does_nothing(storage):
    storage.log.append(batch(1, 3))
    storage.log.truncate_from(4)
    assert storage.log.last_index == 3


def test_compaction_removes_whole_old_segments(tmp_path, storage):
    log = storage.log
    for index in range(1, 200, 10):
        log.append(batch(index, 10, size=100, term=index))
    log.sync()
    files = len(os.listdir(tmp_path))
    first_index = compact(log, 100)
    assert 50 < first_index <= 101
    assert log.first_index == first_index
    assert len(os.listdir(tmp_path)) < files
    with pytest.raises(LogCompacted, match=f"begins at {first_index}"):
        log.read(first_index - 1, 200, 10)
    runs, entries = log.term_runs(), all_entries(log)
    assert runs[0].first_index == first_index
    storage.close()
    storage = opened(tmp_path)
    assert storage.log.first_index == first_index
    assert storage.log.term_runs() == runs
    assert all_entries(storage.log) == entries
    with pytest.raises(ValueError, match="begins at"):
        storage.log.truncate_from(first_index - 1)
    storage.close()


def test_compaction_of_everything_keeps_the_open_segment(tmp_path, storage):
    for index in range(1, 200, 10):
        storage.log.append(batch(index, 10, size=100))
    storage.log.sync()
    first_index = compact(storage.log, 200)
    assert first_index <= storage.log.last_index == 200
    storage.close()
    storage = opened(tmp_path)
    assert (storage.log.first_index, storage.log.last_index) == (first_index, 200)
    storage.close()


def test_log_that_was_truncated_and_compacted_to_nothing_has_no_terms():
    """Found by crash points (seed 106): recovery gave the term of a segment to be removed to a log without entries."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(configuration_batch(1, "c"))
    storage.log.append(batch(2, 9, size=300))
    storage.log.append(batch(11, 10, size=300))
    storage.log.truncate_from(8)
    states = []
    disk.on_call = lambda call: states.append(disk.after_crash((False,) * disk.pending_count()))
    assert compact(storage.log, 7) == 8
    assert len(states) == 4  # before: the base, its sync, the removal, the directory's sync
    for state in states[2:]:
        log = opened("d", filesystem=state).log
        assert (log.first_index, log.last_index) == (8, 7)
        assert (log.term_runs(), log.configuration_indices()) == ([], [])


def test_removal_of_segments_that_a_crash_interrupted_is_finished():
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    for index in range(1, 200, 10):
        storage.log.append(batch(index, 10, size=100))
    storage.log.sync()
    states = []
    disk.on_call = lambda call: states.append(disk.after_crash((False,) * disk.pending_count()))
    first_index = compact(storage.log, 100)
    states.append(disk.after_crash((False,) * disk.pending_count()))
    found = [opened("d", filesystem=state).log.first_index for state in states]
    assert found == [1, 1, *[first_index] * (len(found) - 2)]
    assert len({tuple(state.list_directory("d")) for state in states[2:]}) == 1


def test_compaction_may_end_within_a_segment(tmp_path, storage):
    log = storage.log
    log.append(batch(1, 10, term=3))
    log.append(configuration_batch(11, "c", term=4))
    log.append(batch(12, 3, term=4))
    base = base_at(log, 12)
    log.compact_to(base)
    for again in range(2):
        assert (log.base, log.first_index, log.last_index) == (base, 13, 14)
        assert (log.term_runs(), log.configuration_indices()) == ([TermRun(13, 4)], [])
        assert len(all_entries(log)) == 2
        with pytest.raises(LogCompacted):
            log.read(12, 14, 10)
        if not again:
            storage.close()
            storage = opened(tmp_path)
            log = storage.log
    log.compact_to(LogBase(3, 3))
    assert log.base == base, "never back"
    with pytest.raises(ValueError, match="not in the log"):
        log.compact_to(LogBase(14, 9))
    with pytest.raises(ValueError, match="not in the log"):
        log.compact_to(LogBase(15, 4))
    storage.close()


def test_what_gives_room_is_told(storage):
    log = storage.log
    for index in range(1, 200, 10):
        log.append(batch(index, 10, size=100))
    point = log.compactable_to(100)
    assert 50 < point <= 100
    assert log.compactable_to(point - 1) < point
    assert log.compactable_to(5) == 0
    log.compact_to(base_at(log, point))
    assert log.compactable_to(5) == point


def test_a_full_disk_can_be_compacted():
    """The base has its place from the beginning: what makes room needs none."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    for index in range(1, 200, 10):
        storage.log.append(batch(index, 10, size=100))
    storage.log.sync()
    creates = []
    disk.on_call = lambda call: creates.append(call) if call.startswith(("create", "truncate")) else None
    compact(storage.log, 150)
    assert storage.log.first_index > 100
    assert creates == []


def test_a_log_that_was_reset_begins_after_its_base(tmp_path, storage):
    log = storage.log
    for index in range(1, 200, 10):
        log.append(batch(index, 10, size=100, term=3))
    log.sync()
    base = LogBase(250, 7, 5000)
    log.reset_to(base)
    assert (log.base, log.first_index, log.last_index, log.term_runs()) == (base, 251, 250, [])
    assert sum(name.endswith(".segment") for name in os.listdir(tmp_path)) == 1
    with pytest.raises(ValueError, match="does not follow term 7"):
        log.append(batch(251, 1, term=6))
    log.append(batch(251, 2, term=7))
    log.sync()
    storage.close()
    storage = opened(tmp_path)
    assert (storage.log.base, storage.log.term_runs()) == (base, [TermRun(251, 7)])
    assert len(all_entries(storage.log)) == 2
    storage.close()


def test_a_reader_sees_the_log_before_or_after_a_reset():
    """`raft log` beside a running node, at every call of the reset."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(batch(1, 20))
    storage.log.sync()
    states = []
    disk.on_call = lambda call: states.append(disk.clone())
    storage.log.reset_to(LogBase(30, 2))
    states.append(disk.clone())
    seen = []
    for state in states:
        log = open_for_reading("d", state)
        seen.append((log.base.index, log.last_index, len(all_entries(log))))
    assert seen[0] == (0, 20, 20)
    assert seen[-1] == (30, 30, 0)
    assert set(seen) == {seen[0], seen[-1]}


def test_full_disk_leaves_the_log_as_it_was_and_goes_on_later():
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(batch(1, 3))
    for room in (0, 1, 2):
        disk.room = room
        with pytest.raises(DiskFull, match="goes on when there is room"):
            storage.log.append(batch(4, 10, size=100))
        assert storage.log.last_index == 3
    with pytest.raises(DiskFull):
        storage.log.append(batch(4, 1))
    disk.room = None
    storage.log.append(batch(4, 10, size=100))
    storage.log.sync()
    storage = opened("d", filesystem=disk.after_crash((False,) * disk.pending_count()))
    assert storage.log.read(4, 13, 1 << 20) == batch(4, 10, size=100)


def test_full_disk_when_a_segment_is_made_leaves_no_file():
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(batch(1, 3))
    before = disk.list_directory("d")
    disk.room = 10  # less than a segment
    with pytest.raises(DiskFull):
        storage.log.append(batch(4, 10, size=1000))
    assert disk.list_directory("d") == before
    storage.log.append(batch(4, 1))
    disk.room = None
    storage.log.append(batch(5, 10, size=1000))
    assert storage.log.last_index == 14


def test_truncation_finds_room_on_a_full_disk():
    """Batches leave some sectors of each segment free for it."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    while len(disk.list_directory("d")) == 3:
        storage.log.append(batch(storage.log.last_index + 1, 4, size=100))
    while storage.log._open.has_room(2, 1, 1, 0, 4):
        storage.log.append(batch(storage.log.last_index + 1, 4, size=100))
    files = disk.list_directory("d")
    storage.log.truncate_from(storage.log.last_index)
    assert disk.list_directory("d") == files


class FailingDisk(CrashDisk):
    """Fails the calls whose description begins with `failing`."""

    failing = "nothing"

    def _call(self, call):
        super()._call(call)
        if call.startswith(self.failing):
            raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("failing", ["sync d/log", "pwrite d/log"])
def test_failed_write_or_sync_is_final(failing):
    disk = FailingDisk()
    storage = opened("d", filesystem=disk)
    log = storage.log
    log.append(batch(1, 1))
    disk.failing = failing

    def append_and_sync():
        log.append(batch(2, 1))
        log.sync()

    with pytest.raises(StorageFailed, match="must stop"):
        append_and_sync()
    disk.failing = "nothing"
    last_index = log.last_index
    for write in (lambda: log.append(batch(last_index + 1, 1)), log.sync, lambda: log.truncate_from(1)):
        with pytest.raises(StorageFailed, match="must stop"):
            write()
    assert log.read(1, 1, 10) == batch(1, 1)


@pytest.mark.parametrize(
    "failing", ["create", "rename", "sync_directory", "sync d/log-0000000001", "pwrite d/log-0000000002"]
)
def test_failure_while_a_segment_is_rolled_is_final(failing):
    disk = FailingDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(batch(1, 1))
    disk.failing = failing
    with pytest.raises(StorageFailed):
        storage.log.append(batch(2, 10, size=2000))
    disk.failing = "nothing"
    with pytest.raises(StorageFailed):
        storage.log.append(batch(2, 1))
    storage = opened("d", filesystem=disk.after_crash((True,) * disk.pending_count()))
    assert storage.log.last_index == 1


def test_nothing_is_written_after_close(tmp_path, storage):
    storage.close()
    with pytest.raises(StorageFailed, match="closed"):
        storage.log.append(batch(1, 1))
    with pytest.raises(StorageFailed, match="closed"):
        storage.hard_state.save(storage.hard_state.load())


def test_reads_beside_a_writer_give_what_was_appended(storage):
    """Reader threads see either the old or the new entries of an index, never a mixture; their end is not timed."""
    log = storage.log
    log.append(batch(1, 50, size=100))
    problems, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                found = log.read(1, log.last_index, 3000)
            except LogTruncated:
                continue
            for index, payload in enumerate(found.payloads, found.first_index):
                if not payload.startswith(b"\x03%d:" % index):
                    problems.append((index, payload))

    threads = [threading.Thread(target=read, name=f"reader-{number}") for number in range(2)]
    for thread in threads:
        thread.start()
    for term in range(2, 60):
        log.append(batch(log.last_index + 1, 5, size=term * 10, term=term))
        if term % 3 == 0:
            log.truncate_from(log.last_index - term % 13)
    done.set()
    for thread in threads:
        thread.join(10)
    assert problems == []


_operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 20), st.sampled_from([1, 50, 300, 5000])),
        st.tuples(st.just("truncate"), st.integers(0, 30)),
        st.tuples(st.just("compact"), st.integers(0, 60)),
        st.tuples(st.just("reset"), st.integers(0, 3)),
        st.tuples(st.just("reopen")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=_operations, seed=st.integers(0, 1 << 30))
def test_log_on_disk_behaves_like_its_twin_in_memory(operations, seed):
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    twin = MemoryLog()
    for term, (name, *arguments) in enumerate(operations, 1):
        log = storage.log
        if name == "append":
            entries = batch(log.last_index + 1, arguments[0], size=arguments[1] + seed % 7, term=term, log_time=term)
            log.append(entries)
            twin.append(entries)
        elif name == "truncate":
            index = max(log.first_index, log.last_index - arguments[0])
            log.truncate_from(index)
            twin.truncate_from(index)
        elif name == "compact":
            index = min(log.last_index, log.first_index + arguments[0])
            if index > log.base.index:
                base = base_at(log, index)
                log.compact_to(base)
                twin.compact_to(base)
        elif name == "reset":
            base = LogBase(log.last_index + arguments[0], term, term)
            log.reset_to(base)
            twin.reset_to(base)
        else:
            log.sync()
            storage = opened("d", filesystem=disk.after_crash((False,) * disk.pending_count()))
            disk = storage.filesystem
        log = storage.log
        assert (log.base, log.last_index) == (twin.base, twin.last_index)
        assert log.term_runs() == twin.term_runs()
        assert all_entries(log) == all_entries(twin)
