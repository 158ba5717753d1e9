"""The simulated disk keeps what storage may rely on, and nothing that it may not."""

import errno
import random

import pytest

from raftlog.exceptions import DirectoryInUse
from raftlog.testing.disk import Crashed, SimulatedDisk


def disk_with(seed, path="/node/a", size=4096):
    disk = SimulatedDisk(random.Random(seed))
    disk.make_directory("/node")
    file = disk.create(path, size)
    file.sync()
    disk.sync_directory("/node")
    return disk, file


def after_crash(disk, path="/node/a"):
    disk.crash()
    return disk.open(path).pread(1 << 20, 0)


@pytest.mark.parametrize("seed", range(20))
def test_synced_bytes_survive_and_unsynced_sectors_are_old_or_new(seed):
    disk, file = disk_with(seed)
    file.pwrite(b"A" * 4096, 0)
    file.sync()
    file.pwrite(b"B" * 2048, 512)
    content = after_crash(disk)
    assert len(content) == 4096
    sectors = [content[start : start + 512] for start in range(0, 4096, 512)]
    assert sectors[0] == b"A" * 512
    assert set(sectors[1:5]) <= {b"A" * 512, b"B" * 512}
    assert sectors[5:] == [b"A" * 512] * 3


def test_over_many_crashes_unsynced_writes_are_lost_kept_torn_and_reordered():
    outcomes = set()
    for seed in range(200):
        disk, file = disk_with(seed)
        file.pwrite(b"x" * 512, 0)
        file.pwrite(b"x" * 1024, 512)
        content = after_crash(disk)
        outcomes.add(tuple(content[start] != 0 for start in (0, 512, 1024)))
    assert len(outcomes) == 8


def test_names_survive_once_their_directory_was_synced():
    disk, _ = disk_with(1)
    disk.rename("/node/a", "/node/b")
    disk.sync_directory("/node")
    disk.crash()
    assert disk.list_directory("/node") == ["b"]


def test_unsynced_names_are_old_or_new_and_a_rename_is_never_neither():
    seen = set()
    for seed in range(60):
        disk, _ = disk_with(seed)
        disk.create("/node/new", 512).sync()
        disk.rename("/node/a", "/node/b")
        disk.crash()
        seen.add(tuple(disk.list_directory("/node")))
    assert seen == {("a",), ("b",), ("a", "new"), ("b", "new")}


def test_handles_and_locks_from_before_a_crash_are_dead():
    disk, file = disk_with(1)
    disk.lock("/node/lock")
    with pytest.raises(DirectoryInUse):
        disk.lock("/node/lock")
    disk.crash()
    disk.lock("/node/lock").release()
    disk.lock("/node/lock")
    with pytest.raises(Crashed):
        file.pread(1, 0)


def test_power_is_lost_in_the_call_that_was_named():
    disk, file = disk_with(1)
    disk.crash_at_call(2)
    file.pwrite(b"1", 0)
    with pytest.raises(Crashed):
        file.pwrite(b"2", 0)


def test_a_torn_write_leaves_some_of_its_sectors():
    outcomes = set()
    for seed in range(40):
        disk, file = disk_with(seed)
        disk.tear_next_write = True
        file.pwrite(b"1" * 512, 0)
        file.sync()
        with pytest.raises(Crashed):
            file.pwrite(b"x" * 1024, 1024)
        content = after_crash(disk)
        assert content[:512] == b"1" * 512
        outcomes.add((content[1024], content[1536]))
    assert len(outcomes) == 4


def test_damage_flips_one_bit_of_what_was_written():
    for seed in range(20):
        disk, file = disk_with(seed)
        file.pwrite(b"x" * 700, 0)
        file.sync()
        before = file.pread(4096, 0)
        disk.crash()
        assert disk.damage(random.Random(seed))
        after = disk.open("/node/a").pread(4096, 0)
        changed = [(one ^ other).bit_count() for one, other in zip(before, after, strict=True)]
        assert sum(changed) == 1


def test_a_full_disk_takes_nothing_that_grows_and_says_enospc():
    disk, file = disk_with(1)
    disk.free_bytes = 100
    file.pwrite(b"x" * 4096, 0)
    for grow in (lambda: disk.create("/node/c", 512), lambda: file.pwrite(b"x" * 512, 4096)):
        with pytest.raises(OSError, match="No space") as raised:
            grow()
        assert raised.value.errno == errno.ENOSPC
    assert disk.list_directory("/node") == ["a"]


def test_a_failing_sync_raises_and_promises_nothing():
    lost = set()
    for seed in range(30):
        disk, file = disk_with(seed)
        file.pwrite(b"x" * 512, 0)
        disk.fail_syncs = True
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        lost.add(after_crash(disk)[:1])
    assert lost == {b"\0", b"x"}


def test_each_sync_costs_its_latency():
    disk, file = disk_with(1)
    disk.latency = 0.25
    file.sync()
    disk.sync_directory("/node")
    assert disk.waited == 0.5
