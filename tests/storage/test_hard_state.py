"""Term and vote survive every crash, and a damaged slot is refused."""

from __future__ import annotations

import pytest

from raftlog.consensus.state import HardState
from raftlog.exceptions import LogDamaged, StorageFailed
from raftlog.storage.hard_state import MAX_VOTED_FOR_BYTES, create_hard_state, decode_slot, encode_slot, open_hard_state
from raftlog.testing.crash_disk import CrashDisk


@pytest.fixture
def disk():
    disk = CrashDisk()
    create_hard_state(disk, "d")
    return disk


def slots(disk):
    return disk.inodes[disk.names["d/hard_state"]].seen


def reopened(disk):
    return open_hard_state(disk.after_crash((False,) * disk.pending_count()), "d").load()


def test_new_hard_state_is_term_0_without_a_vote(disk):
    assert open_hard_state(disk, "d").load() == HardState(0, "")


def test_save_is_durable_when_it_returns(disk):
    store = open_hard_state(disk, "d")
    for term in range(1, 6):
        store.save(HardState(term, f"node-ü-{term}"))
        assert store.load() == reopened(disk) == HardState(term, f"node-ü-{term}")


def test_longest_vote_fits_and_a_longer_one_is_refused_without_a_write(disk):
    store = open_hard_state(disk, "d")
    store.save(HardState(1, "n" * MAX_VOTED_FOR_BYTES))
    assert reopened(disk).voted_for == "n" * MAX_VOTED_FOR_BYTES
    with pytest.raises(ValueError, match="longer than"):
        store.save(HardState(2, "n" * (MAX_VOTED_FOR_BYTES + 1)))
    assert reopened(disk).current_term == 1


def test_flipped_bits_in_either_slot_are_refused(disk):
    """The older slot too: nothing tells which of them was the newest before the damage."""
    open_hard_state(disk, "d").save(HardState(7, "n1"))
    for at in range(1024):
        slots(disk)[at] ^= 1 << at % 8
        with pytest.raises(LogDamaged, match=f"offset {at // 512 * 512}"):
            open_hard_state(disk, "d")
        slots(disk)[at] ^= 1 << at % 8
    assert open_hard_state(disk, "d").load() == HardState(7, "n1")


@pytest.mark.parametrize("number", [0, 1])
def test_blank_slot_is_refused(disk, number):
    open_hard_state(disk, "d").save(HardState(7, "n1"))
    slots(disk)[number * 512 : number * 512 + 512] = bytes(512)
    with pytest.raises(LogDamaged, match=f"slot {number} is not valid"):
        open_hard_state(disk, "d")


def test_slot_from_an_older_time_is_refused(disk):
    """A slot that went back (a lost write that was synced) leaves numbers that do not follow each other."""
    store = open_hard_state(disk, "d")
    old = bytes(slots(disk)[:512])
    for term in range(1, 5):
        store.save(HardState(term, ""))
    slots(disk)[:512] = old
    with pytest.raises(LogDamaged, match="must follow each other"):
        open_hard_state(disk, "d")


def test_missing_or_short_file_is_refused(disk):
    del slots(disk)[700:]
    with pytest.raises(LogDamaged, match="700 bytes instead of 1024"):
        open_hard_state(disk, "d")
    disk.remove("d/hard_state")
    with pytest.raises(LogDamaged, match="missing"):
        open_hard_state(disk, "d")


def test_failed_sync_is_final(disk):
    store = open_hard_state(disk, "d")

    def fail(call):
        raise OSError(5, "Input/output error")

    disk.on_call = fail
    with pytest.raises(StorageFailed, match="must stop"):
        store.save(HardState(1, "n1"))
    disk.on_call = lambda call: None
    with pytest.raises(StorageFailed, match="must stop"):
        store.save(HardState(1, "n1"))


def test_slot_round_trip_and_garbage():
    slot = encode_slot(9, HardState(3, "n2"))
    assert len(slot) == 512
    assert decode_slot(slot) == (9, HardState(3, "n2"))
    assert decode_slot(slot[:-1]) is None
    assert decode_slot(bytes(512)) is None
