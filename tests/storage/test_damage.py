"""No flipped, lost or missing byte gives wrong entries: LogDamaged, or the contents are whole."""

from __future__ import annotations

import random

import pytest

from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import HardState
from raftlog.exceptions import LogDamaged, StorageError
from raftlog.storage import layout
from raftlog.storage.base import SLOT_BYTES, BaseRecord, decode_slot
from raftlog.testing.crash_disk import CrashDisk
from tests.storage.helpers import all_entries, batch, compact, configuration_batch, opened


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
        step = 131 if name == layout.BASE else 13  # that one is nearly all zeros
        for at in range(rng.randrange(13), len(data_of(disk, path)), step):
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


# The base


def compacted_disk():
    """A log that was compacted twice, so that segments are gone which both slots' older states would need."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    for index in range(1, 200, 10):
        storage.log.append(batch(index, 10, size=100, term=index))
    storage.log.sync()
    compact(storage.log, 60)
    compact(storage.log, 150)
    return disk.after_crash((True,) * disk.pending_count()), storage.log.base


def slots_of(disk):
    data = data_of(disk, f"d/{layout.BASE}")
    return sorted(range(2), key=lambda number: decode_slot(bytes(data[number * SLOT_BYTES :]))[0])


def test_a_base_by_which_segments_were_removed_is_refused_when_its_slot_is_damaged():
    """The older slot needs a segment that is gone: the log does not begin where it says."""
    disk, _ = compacted_disk()
    older, newer = slots_of(disk)
    data_of(disk, f"d/{layout.BASE}")[newer * SLOT_BYTES + 40] ^= 1
    with pytest.raises(LogDamaged, match="is missing; the log begins in it"):
        opened("d", filesystem=disk)
    disk, base = compacted_disk()
    data_of(disk, f"d/{layout.BASE}")[older * SLOT_BYTES + 40] ^= 1
    assert opened("d", filesystem=disk).log.base == base


def test_both_slots_of_the_base_damaged_are_refused():
    disk, _ = compacted_disk()
    data = data_of(disk, f"d/{layout.BASE}")
    data[:] = bytes(len(data))
    with pytest.raises(LogDamaged, match="neither slot is valid"):
        opened("d", filesystem=disk)


def test_a_missing_base_is_refused_unless_the_log_never_gave_up_anything():
    disk, _ = compacted_disk()
    disk.remove(f"d/{layout.BASE}")
    with pytest.raises(LogDamaged, match="where the log begins is not known"):
        opened("d", filesystem=disk)
    disk = CrashDisk()
    opened("d", filesystem=disk).log.append(batch(1, 3))
    disk.remove(f"d/{layout.BASE}")
    log = opened("d", filesystem=disk).log
    assert (log.base, log.last_index) == (NO_BASE, 3)
    assert disk.exists(f"d/{layout.BASE}")


def test_a_reset_whose_slot_is_damaged_is_refused():
    """Else the log of before would go on with entries of after."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(batch(1, 10))
    storage.log.sync()
    disk.on_call = lambda call: states.append(disk.clone()) if call.startswith("remove") else None
    states = []
    storage.log.reset_to(LogBase(10, 7))
    state = states[0]  # both logs are there
    _, newer = slots_of(state)
    data_of(state, f"d/{layout.BASE}")[newer * SLOT_BYTES + 40] ^= 1
    with pytest.raises(LogDamaged):
        opened("d", filesystem=state)


def test_a_base_beyond_the_log_is_refused():
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    storage.log.append(batch(1, 10))
    storage.log.sync()
    storage.log._base.save(BaseRecord(LogBase(11, 1), 1))
    with pytest.raises(LogDamaged, match="begins after entry 11, but the segments hold 1-10"):
        opened("d", filesystem=disk)
