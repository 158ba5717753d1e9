"""No crash breaks a promise of storage, and the exploration finds it where one is broken on purpose."""

from __future__ import annotations

import io
import json
from zlib import crc32

import pytest

from raftlog.storage import base, hard_state, layout, record, recovery, segment, segmented_log
from raftlog.storage.hard_state import DurableHardState
from raftlog.storage.segmented_log import SegmentedLog
from raftlog.testing import crash_points
from raftlog.testing.crash_disk import CrashDisk, CrashFile

SEEDS = range(4)


def violations(operations: int = 30, samples: int = 8) -> list[str]:
    """What a few seeds find, up to the first seed that finds something."""
    for seed in SEEDS:
        if found := crash_points.explore(seed, operations, samples).violations:
            return found
    return []


def test_no_crash_breaks_a_promise():
    out = io.StringIO()
    code = crash_points.main(["--json", "--rounds", "2", "--operations", "30", "--samples", "8"], out)
    report = json.loads(out.getvalue())
    assert code == 0, report["violations"]
    assert report["states"] > 1000
    assert report["refused"] > 20


def test_log_that_does_not_sync_is_found(monkeypatch):
    def sync(self):
        self._open.synced = self._open.position

    monkeypatch.setattr(SegmentedLog, "sync", sync)
    assert violations()


def test_hard_state_that_does_not_sync_is_found(monkeypatch):
    def save(self, state):
        self._sequence += 1
        self._file.pwrite(hard_state.encode_slot(self._sequence, state), self._sequence % 2 * 512)
        self._hard_state = state

    monkeypatch.setattr(DurableHardState, "save", save)
    assert "hard state" in violations()[0]


def test_hard_state_that_goes_back_to_the_older_slot_is_found(monkeypatch):
    """Rule 7: an invalid slot may have held a vote, so the other one must not be used quietly."""

    def read_hard_state(path, file):
        slots = [hard_state.decode_slot(file.pread(512, offset)) for offset in (0, 512)]
        return max(slot for slot in slots if slot is not None)

    monkeypatch.setattr(hard_state, "read_hard_state", read_hard_state)
    found = violations(operations=60, samples=1)
    assert any("not refused" in text for text in found)


def test_recovery_that_leaves_a_torn_tail_in_place_is_found(monkeypatch):
    monkeypatch.setattr(recovery, "zero_sectors", lambda file, start, end: None)
    assert violations()


def test_recovery_that_does_not_write_the_last_group_anew_is_found(monkeypatch):
    """A sync failed, its pages count as clean: syncing again without writing makes nothing durable."""

    def repair(scan, tail):
        scan.last_synced = scan.segment.position
        original(scan, tail)

    original = recovery._repair
    monkeypatch.setattr(recovery, "_repair", repair)
    assert "a second crash after recovery lost" in violations()[0]


def test_segment_that_is_published_without_syncing_the_directory_is_found(monkeypatch):
    def publish(filesystem, directory, sequence, first_index):
        path = f"{directory}/{segment.segment_name(sequence, first_index)}"
        filesystem.rename(path + ".new", path)
        return path

    monkeypatch.setattr(segmented_log, "publish_segment", publish)
    assert violations()


def test_segment_that_is_sealed_after_its_successor_is_published_is_found(monkeypatch):
    """The order of rolling matters: only the newest segment may be unfinished."""
    monkeypatch.setattr(SegmentedLog, "_seal", lambda self, *arguments: None)
    assert violations()


def test_truncation_kept_in_memory_only_is_found(monkeypatch):
    def truncate_from(self, index):
        self._contents.cut(index)
        self._open.table = self._open.table.cut(index)
        self._open.first_index = min(self._open.first_index, index)
        self._publish()

    monkeypatch.setattr(SegmentedLog, "truncate_from", truncate_from)
    assert violations()


def test_compaction_that_removes_before_it_decides_is_found(monkeypatch):
    """A segment that is missing without the base's word counts as damage."""

    def save_base(self, base, oldest):
        paths = [segment.path for segment in self._contents.sealed if segment.sequence < oldest]
        if oldest <= self._open.sequence:
            self._remove(paths)
        original(self, base, oldest)

    original = SegmentedLog._save_base
    monkeypatch.setattr(SegmentedLog, "_save_base", save_base)
    monkeypatch.setattr(SegmentedLog, "_remove", remove_what_is_there)
    assert any("is missing" in text for text in violations())


def remove_what_is_there(self, paths):
    recovery.remove_segments(
        self._filesystem, self._directory, [path for path in paths if self._filesystem.exists(path)]
    )


def test_reset_that_removes_before_its_segment_is_published_is_found(monkeypatch):
    """Between the two there would be no log at all."""

    def publish(filesystem, directory, sequence, first_index):
        for name in filesystem.list_directory(directory):
            parsed = layout.parse_segment_name(name)
            if parsed is not None and resets:
                filesystem.remove(f"{directory}/{name}")
        return original(filesystem, directory, sequence, first_index)

    def reset_to(self, base):
        resets.append(base)
        try:
            original_reset(self, base)
        finally:
            resets.clear()

    resets: list[object] = []
    original, original_reset = segment.publish_segment, SegmentedLog.reset_to
    monkeypatch.setattr(segmented_log, "publish_segment", publish)
    monkeypatch.setattr(SegmentedLog, "reset_to", reset_to)
    monkeypatch.setattr(SegmentedLog, "_remove", remove_what_is_there)
    assert "no segment" in violations()[0]


def test_base_that_does_not_sync_is_found(monkeypatch):
    def save(self, record):
        self._sequence += 1
        self._file.pwrite(base.encode_slot(self._sequence, record), self._sequence % 2 * base.SLOT_BYTES)
        self.record = record

    monkeypatch.setattr(base.BaseFile, "save", save)
    assert violations()


def test_reset_that_makes_its_segment_before_the_decision_durable_is_found(monkeypatch):
    """A crash would find two logs that do not belong together."""

    def save(self, record):
        saved.append(record)

    saved: list[object] = []
    monkeypatch.setattr(base.BaseFile, "save", save)
    assert violations()


def test_command_reports_a_violation_with_how_to_replay_it(monkeypatch):
    monkeypatch.setattr(SegmentedLog, "sync", lambda self: None)
    out = io.StringIO()
    assert crash_points.main(["--seed", "3", "--rounds", "1", "--operations", "10"], out) == 1
    assert "VIOLATION" in out.getvalue()
    assert "crash_points --seed 3 --rounds 1 --operations 10" in out.getvalue()


def test_torn_tail_taken_for_damage_is_found(monkeypatch):
    original = recovery._Scan._look_behind

    def look_behind(self):
        tail = original(self)
        if tail.torn:
            raise self._damaged(self.segment.position, "strict")
        return tail

    monkeypatch.setattr(recovery._Scan, "_look_behind", look_behind)
    assert "LogDamaged" in violations()[0]


def test_damaged_tail_that_is_silently_cut_is_found(monkeypatch):
    """Rule 7: a complete batch with a wrong checksum is damage, at the tail too."""

    def is_whole(image):
        _, _, body_crc, *_ = record._HEADER.unpack_from(image)
        data = bytearray(image)
        del data[record.MARKERS]
        return record.is_whole(image) and crc32(data[record.HEADER_BYTES :]) == body_crc

    monkeypatch.setattr(recovery, "is_whole", is_whole)
    found = violations(operations=60, samples=1)
    assert any("flipped" in text for text in found)


def test_remnants_of_a_write_without_room_are_found(monkeypatch):
    monkeypatch.setattr(SegmentedLog, "_clean", lambda self: None)
    assert violations()


def test_crash_disk_keeps_exactly_the_chosen_changes():
    disk = CrashDisk()
    file = disk.create("d/a", 1024)
    disk.sync_directory("d")
    file.sync()
    file.pwrite(b"1" * 1024, 0)
    disk.rename("d/a", "d/b")
    assert disk.pending_count() == 3
    state = disk.after_crash((False, True, False))
    assert state.list_directory("d") == ["a"]
    assert state.open("d/a").pread(1024, 0) == bytes(512) + b"1" * 512
    assert disk.after_crash((True, True, True)).list_directory("d") == ["b"]


def test_failed_sync_leaves_what_was_written_readable_but_not_durable():
    disk = CrashDisk()
    file = disk.create("d/a", 512)
    file.sync()
    disk.sync_directory("d")
    file.pwrite(b"x" * 512, 0)
    killed = disk.clone()
    killed.inodes[1].pending.clear()
    assert killed.open("d/a").pread(512, 0) == b"x" * 512
    assert killed.after_crash(()).open("d/a").pread(512, 0) == bytes(512)


@pytest.mark.parametrize("method", ["truncate", "pwrite"])
def test_changes_are_pending_until_the_sync(method):
    disk = CrashDisk()
    file = disk.create("d/a", 0)
    assert isinstance(file, CrashFile)
    before = disk.pending_count()
    if method == "truncate":
        file.truncate(4096)
    else:
        file.pwrite(b"1234", 0)
    assert disk.pending_count() == before + 1
    file.sync()
    assert disk.pending_count() == 1
