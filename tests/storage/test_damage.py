"""No flipped, lost or missing byte gives wrong entries: LogDamaged, or the contents are whole."""

from __future__ import annotations

import random

import pytest

from raftlog.consensus.state import HardState
from raftlog.exceptions import LogDamaged, StorageError
from raftlog.storage import layout
from raftlog.testing.crash_disk import CrashDisk
from tests.storage.helpers import all_entries, batch, configuration_batch, opened


@pytest.fixture(scope="module")
def disk():
    """Three sealed segments and an open one, with truncations, configurations and a hard state."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk, cluster="shop")
    log = storage.log
    log.append(configuration_batch(1, "c"))
    for term in range(1, 14):
        log.append(batch(log.last_index + 1, 3, size=30 * term, term=term))
        log.append(batch(log.last_index + 1, 1, size=700, term=term))
        log.sync()
        if term % 4 == 0:
            log.truncate_from(log.last_index - 1)
    storage.hard_state.save(HardState(13, "n2"))
    storage.set_cluster_id("cd" * 16)
    assert len(disk.list_directory("d")) >= 6
    return disk.after_crash((True,) * disk.pending_count())


def contents(disk):
    storage = opened("d", filesystem=disk)
    log = storage.log
    index = log.term_runs(), log.configuration_indices(), log.first_index
    return all_entries(log), index, storage.hard_state.load(), storage.metadata


def newest(disk):
    return "d/" + max(name for name in disk.list_directory("d") if name.endswith(".segment"))


def copy_of(disk):
    return disk.after_crash(())


def data_of(disk, path):
    return disk.inodes[disk.names[path]].seen


def test_flip_of_any_byte_is_refused_or_harmless(disk):
    """Bytes all over each file, one random bit each."""
    whole = contents(copy_of(disk))
    rng = random.Random(5)
    refused = harmless = 0
    for name in disk.list_directory("d"):
        path = f"d/{name}"
        for at in range(rng.randrange(13), len(data_of(disk, path)), 13):
            damaged = copy_of(disk)
            data_of(damaged, path)[at] ^= 1 << rng.randrange(8)
            try:
                assert contents(damaged) == whole, f"{path} at {at}"
                harmless += 1
            except LogDamaged:
                refused += 1
    assert refused > 800
    assert harmless > 0  # zeros between the last record and the footer of a sealed segment are not read


def test_every_byte_of_the_open_segment_matters(disk):
    path = newest(disk)
    size = len(data_of(disk, path))
    for at in range(7, size, 61):
        damaged = copy_of(disk)
        data_of(damaged, path)[at] ^= 0x10
        with pytest.raises(LogDamaged, match="offset"):
            contents(damaged)


def test_complete_last_batch_with_a_wrong_checksum_is_damage_not_a_torn_tail(disk):
    """Rule 7: what was whole may have been acknowledged, so it is not cut off."""
    damaged = copy_of(disk)
    storage = opened("d", filesystem=copy_of(disk))
    segment = storage.log._open
    last = segment.table.positions[-1]
    data_of(damaged, segment.path)[last * 512 + 100] ^= 1
    with pytest.raises(LogDamaged) as caught:
        contents(damaged)
    text = str(caught.value)
    assert segment.path in text
    assert f"offset {last * 512}" in text
    assert f"entries from {segment.table.firsts[-1]} on" in text
    assert "docs/operations.md" in text


def test_last_batch_with_a_sector_never_written_is_torn(disk):
    damaged = copy_of(disk)
    segment = opened("d", filesystem=copy_of(disk)).log._open
    last = segment.table.positions[-1]
    data_of(damaged, segment.path)[last * 512 + 512 : last * 512 + 1024] = bytes(512)
    storage = opened("d", filesystem=damaged)
    assert storage.log.last_index == segment.table.firsts[-1] - 1
    assert f"after entry {storage.log.last_index}" in storage.torn_tail
    assert opened("d", filesystem=damaged).torn_tail is None


def test_hole_before_a_record_that_was_synced_later_is_damage(disk):
    damaged = copy_of(disk)
    storage = opened("d", filesystem=damaged)
    segment = storage.log._open
    storage.log.append(batch(storage.log.last_index + 1, 1, size=900, term=14))
    storage.log.sync()
    hole = segment.table.positions[0]
    assert hole < segment.table.positions[-1]
    data_of(damaged, segment.path)[hole * 512 : hole * 512 + 512] = bytes(512)
    with pytest.raises(LogDamaged, match="written after a sync"):
        contents(damaged)


def test_truncated_files_are_refused(disk):
    for name in disk.list_directory("d"):
        path = f"d/{name}"
        size = len(data_of(disk, path))
        for keep in (0, 1, size // 2, size - 1):
            damaged = copy_of(disk)
            del data_of(damaged, path)[keep:]
            with pytest.raises(LogDamaged):
                contents(damaged)


def test_missing_files_are_refused(disk):
    """Not so the newest segment: a crash may come before it is made. The oldest too: the log says what it needs."""
    segments = [name for name in disk.list_directory("d") if name.endswith(".segment")]
    for name in ["metadata", "hard_state", *segments[:-1]]:
        damaged = copy_of(disk)
        damaged.names.pop(f"d/{name}")
        with pytest.raises(LogDamaged, match="missing"):
            contents(damaged)


def test_missing_log_is_refused(disk):
    damaged = copy_of(disk)
    for name in disk.list_directory("d"):
        if name.endswith(".segment"):
            damaged.names.pop(f"d/{name}")
    with pytest.raises(LogDamaged, match="no segment"):
        contents(damaged)


def test_segments_swapped_are_refused(disk):
    names = [f"d/{name}" for name in disk.list_directory("d") if name.endswith(".segment")]
    damaged = copy_of(disk)
    damaged.names[names[0]], damaged.names[names[1]] = damaged.names[names[1]], damaged.names[names[0]]
    with pytest.raises(LogDamaged):
        contents(damaged)


def test_refusal_changes_nothing(disk):
    damaged = copy_of(disk)
    data_of(damaged, newest(disk))[600] ^= 1
    before = {name: bytes(data_of(damaged, f"d/{name}")) for name in damaged.list_directory("d")}
    with pytest.raises(LogDamaged):
        contents(damaged)
    assert {name: bytes(data_of(damaged, f"d/{name}")) for name in damaged.list_directory("d")} == before


def test_random_bytes_in_place_of_a_file_are_refused(disk):
    rng = random.Random(8)
    for name in disk.list_directory("d"):
        damaged = copy_of(disk)
        data = data_of(damaged, f"d/{name}")
        data[:] = rng.randbytes(len(data))
        with pytest.raises(StorageError):
            contents(damaged)


def test_damage_in_a_sealed_segment_is_found_when_it_is_read(disk):
    damaged = copy_of(disk)
    first = f"d/{layout.segment_name(1, 1)}"
    data_of(damaged, first)[512 + 70] ^= 4
    storage = opened("d", filesystem=damaged)
    with pytest.raises(LogDamaged, match="entries from 1 on"):
        storage.log.read(1, 1, 100)
    assert storage.log.read(storage.log.last_index, storage.log.last_index, 1)
