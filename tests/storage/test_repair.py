"""A damaged folder is cut before what is lost, keeps everything aside, and does not forget that it must not vote."""

from __future__ import annotations

import random

import pytest

from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import HardState
from raftlog.exceptions import LogDamaged
from raftlog.storage import layout
from raftlog.storage.repair import carry_out, plan_repair
from raftlog.testing.crash_disk import CrashDisk
from tests.storage.helpers import all_entries, batch, opened
from tests.storage.test_damage import copy_of, data_of, disk, newest

__all__ = ["disk"]


def repair(filesystem, directory="d"):
    plan = plan_repair(filesystem, directory)
    carry_out(filesystem, plan, recovery_id=7, since="today", aside="damaged-1")
    return plan


def entries_of(filesystem):
    storage = opened("d", filesystem=filesystem)
    try:
        return all_entries(storage.log)
    finally:
        storage.close()


def flip(filesystem, path, at):
    data_of(filesystem, path)[at] ^= 0x10
    filesystem.inodes[filesystem.names[path]].durable[at] ^= 0x10


def test_every_damage_is_repaired_or_said_to_be_beyond_it(disk):
    """A byte anywhere: what is before the cut is whole, what is cut is aside, and the folder knows of its repair."""
    whole = entries_of(copy_of(disk))
    rng = random.Random(7)
    repaired = impossible = 0
    for name in disk.list_directory("d"):
        path = f"d/{name}"
        size = len(data_of(disk, path))
        step = min(251, size // 4)
        for at in range(rng.randrange(step), size, step):
            damaged = copy_of(disk)
            data_of(damaged, path)[at] ^= 1 << rng.randrange(8)
            plan = plan_repair(damaged, "d")
            if plan.impossible:
                assert name == "metadata"
                assert "raft replace" in plan.impossible
                impossible += 1
                continue
            if not plan.is_needed:
                continue
            before = {each: bytes(data_of(damaged, f"d/{each}")) for each in damaged.list_directory("d")}
            carry_out(damaged, plan, recovery_id=7, since="today", aside="damaged-1")
            storage = opened("d", filesystem=damaged)
            assert storage.recovery_id == 7
            kept = all_entries(storage.log)
            if plan.cut_from:
                assert len(kept) == plan.cut_from - 1
                assert plan.promised_index <= len(whole) + 8
            assert kept == whole[: len(kept)]
            assert storage.hard_state.load().current_term >= (13 if name != "hard_state" else 12)
            assert plan_repair(damaged, "d").findings == []
            for each in (plan.replaced, *plan.moved, *(["hard_state"] if plan.hard_state else [])):
                if each:
                    assert bytes(data_of(damaged, f"d/damaged-1/{each}")) == before[each]
            repaired += 1
    assert repaired > 50
    assert impossible >= 1


def test_only_what_is_behind_the_damage_is_cut(disk):
    damaged = copy_of(disk)
    storage = opened("d", filesystem=copy_of(disk))
    table = storage.log._open.table
    flip(damaged, newest(disk), table.positions[-1] * 512 + 100)
    plan = repair(damaged)
    assert plan.cut_from == table.firsts[-1]
    assert plan.moved == []
    assert len(entries_of(damaged)) == plan.cut_from - 1


def test_a_truncation_behind_the_damage_counts():
    """Entries that a later truncation made void do not come back."""
    disk = CrashDisk()
    log = opened("d", filesystem=disk, segment_bytes=1 << 16).log
    log.append(batch(1, 10, term=1))
    log.append(batch(11, 3, term=1))
    log.sync()
    log.truncate_from(5)
    log.append(batch(5, 4, term=2))
    log.sync()
    position = log._open.table.positions[-1]
    damaged = disk.after_crash(())
    flip(damaged, newest(damaged), 512 + 512 + 90)  # the batch of 11-13, which is void
    plan = repair(damaged)
    assert position > 3
    assert (plan.cut_from, plan.promised_index, plan.promised_term) == (5, 10, 2)
    assert [term for term, _, _ in entries_of(damaged)] == [1] * 4


def test_hard_state_slot_is_dropped(disk):
    """The other slot, or no term below the log's: what was voted since is the recovery's business."""
    for number in range(2):
        damaged = copy_of(disk)
        flip(damaged, "d/hard_state", 512 * number + 30)
        plan = repair(damaged)
        assert plan.cut_from == 0
        storage = opened("d", filesystem=damaged)
        assert storage.hard_state.load().current_term == 13
        assert storage.recovery_id == 7
    damaged = copy_of(disk)
    damaged.names.pop("d/hard_state")
    repair(damaged)
    assert opened("d", filesystem=damaged).hard_state.load() == HardState(13, "")


def test_missing_segment(disk):
    damaged = copy_of(disk)
    second = sorted(name for name in disk.list_directory("d") if name.endswith(".segment"))[1]
    damaged.names.pop(f"d/{second}")
    plan = repair(damaged)
    assert plan.cut_from <= layout.parse_segment_name(second)[1]
    assert len(plan.moved) >= 2
    assert len(entries_of(damaged)) == plan.cut_from - 1


def test_a_folder_goes_on_after_its_repair(disk):
    damaged = copy_of(disk)
    flip(damaged, f"d/{layout.segment_name(1, 1)}", 512 + 80)
    repair(damaged)
    storage = opened("d", filesystem=damaged)
    assert storage.log.last_index == 0
    storage.log.append(batch(1, 60, size=300, term=20))
    storage.log.append(batch(61, 60, size=300, term=20))
    storage.log.sync()
    storage.close()
    storage = opened("d", filesystem=damaged)
    assert storage.recovery_id == 7
    assert storage.log.last_index == 120
    storage.finish_repair()
    storage.close()
    storage = opened("d", filesystem=damaged)
    assert storage.recovery_id == 0
    assert all_entries(storage.log)[-1][0] == 20


def test_a_new_cluster_that_begins_with_a_repaired_log_has_nothing_to_wait_for(disk):
    damaged = copy_of(disk)
    flip(damaged, newest(disk), 512 + 60)
    repair(damaged)
    storage = opened("d", filesystem=damaged)
    storage.replace_cluster_id("ef" * 16)
    storage.close()
    assert opened("d", filesystem=damaged).recovery_id == 0


def test_repaired_twice_keeps_what_was_lost_first(disk):
    damaged = copy_of(disk)
    first = f"d/{layout.segment_name(1, 1)}"
    flip(damaged, newest(disk), 512 + 60)
    promised = repair(damaged).promised_index
    flip(damaged, first, 512 + 80)
    plan = plan_repair(damaged, "d")
    carry_out(damaged, plan, recovery_id=8, since="later", aside="damaged-2")
    repairing = opened("d", filesystem=damaged).metadata.repairing
    assert (repairing.recovery_id, repairing.cut_from) == (8, 1)
    assert repairing.promised_index == max(promised, plan.promised_index)


def test_nothing_to_repair(disk):
    plan = plan_repair(copy_of(disk), "d")
    assert not plan.is_needed
    with pytest.raises(ValueError, match="nothing is wrong"):
        carry_out(copy_of(disk), plan, recovery_id=7, since="", aside="damaged-1")


class PowerCut(Exception):
    pass


def test_every_crash_of_a_repair_leaves_a_folder_that_is_refused_or_repaired(disk):
    """And one that may have been changed knows that it is being repaired."""
    damaged = copy_of(disk)
    segments = sorted(name for name in disk.list_directory("d") if name.endswith(".segment"))
    flip(damaged, f"d/{segments[1]}", 512 + 80)
    flip(damaged, "d/hard_state", 30)
    damaged = damaged.after_crash((True,) * damaged.pending_count())
    expected_plan = plan_repair(damaged, "d")
    done = damaged.after_crash(())
    repair(done)
    expected = entries_of(done)
    whole_count, rng, states = done.calls, random.Random(3), 0
    for call in range(1, whole_count + 1):
        at_cut = damaged.after_crash(())
        at_cut.calls = 0

        def cut(_: str, disk: CrashDisk = at_cut, call: int = call) -> None:
            if disk.calls == call:
                raise PowerCut

        at_cut.on_call = cut
        try:
            repair(at_cut)
        except PowerCut:
            pass
        for kept in at_cut.crash_choices(rng, 3):
            crashed = at_cut.after_crash(kept)
            crashed.on_call = lambda _: None
            states += 1
            try:
                entries = entries_of(crashed.after_crash(()))
            except LogDamaged:
                again = repair(crashed)
                assert expected_plan.cut_from <= max(again.cut_from, expected_plan.cut_from)
                entries = entries_of(crashed)
            assert entries == expected
            assert opened("d", filesystem=crashed).recovery_id == 7
    assert states > 40


def test_a_log_of_which_nothing_is_left_begins_anew_after_its_base(disk):
    for keep_base in (True, False):
        damaged = copy_of(disk)
        storage = opened("d", filesystem=damaged)
        index = storage.log.last_index - 3
        storage.log.compact_to(LogBase(index=index, term=storage.log.term_runs()[-1].term))
        storage.close()
        for name in damaged.list_directory("d"):
            if name.endswith(".segment"):
                damaged.names.pop(f"d/{name}")
        if not keep_base:
            damaged.names.pop("d/base")
            assert plan_repair(damaged, "d").impossible or plan_repair(damaged, "d").cut_from == 1
            continue
        plan = repair(damaged)
        assert plan.cut_from == index + 1
        storage = opened("d", filesystem=damaged)
        assert (storage.log.first_index, storage.log.last_index) == (index + 1, index)
        assert storage.recovery_id == 7


def test_damage_at_or_before_the_base_leaves_nothing_after_it(disk):
    """What is behind it would need entries that are not the log's any more: it is fetched again."""
    damaged = copy_of(disk)
    log = opened("d", filesystem=damaged).log
    table, position = log._open.table, log._open.table.positions[0]
    log.compact_to(LogBase(index=table.firsts[1], term=log.term_runs()[-1].term))
    path = log._open.path
    flip(damaged, path, position * 512 + 90)
    plan = repair(damaged)
    assert plan.begins_anew
    storage = opened("d", filesystem=damaged)
    assert storage.log.first_index == storage.log.last_index + 1 == table.firsts[1] + 1
    assert f"d/damaged-1/{path.removeprefix('d/')}" in damaged.names
