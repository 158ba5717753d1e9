"""Whatever is not as it was written is found, and nothing else is, also beside an owner that writes."""

from __future__ import annotations

import random

import pytest

from raftlog.consensus.state import HardState
from raftlog.storage import layout
from raftlog.storage.verify import Checked, Finding, check_directory, still_found, total_bytes
from raftlog.testing.crash_disk import CrashDisk
from tests.storage.helpers import batch, opened
from tests.storage.test_damage import contents, copy_of, data_of, disk, newest

__all__ = ["disk"]


def findings(filesystem, directory="d"):
    return [seen for seen in check_directory(filesystem, directory) if isinstance(seen, Finding)]


def test_a_whole_folder_has_no_findings_and_every_entry_is_read(disk):
    log = opened("d", filesystem=copy_of(disk)).log
    seen = list(check_directory(disk, "d"))
    assert not [each for each in seen if isinstance(each, Finding)]
    checked = [each for each in seen if isinstance(each, Checked)]
    assert sum(each.entries for each in checked) >= log.last_index  # those that a truncation made void, too
    read = sum(each.size for each in checked)
    assert total_bytes(disk, "d") * 0.8 < read <= total_bytes(disk, "d")


def test_every_flipped_byte_is_found_or_stands_where_nothing_is(disk):
    """One random bit of bytes all over each file; where nothing is found the contents are whole."""
    whole = contents(copy_of(disk))
    rng = random.Random(6)
    found = harmless = 0
    for name in disk.list_directory("d"):
        path = f"d/{name}"
        for at in range(rng.randrange(97), len(data_of(disk, path)), 97):
            damaged = copy_of(disk)
            data_of(damaged, path)[at] ^= 1 << rng.randrange(8)
            first = next((seen for seen in check_directory(damaged, "d") if isinstance(seen, Finding)), None)
            if first is not None:
                assert first.path in (path, "d")
                found += 1
            else:
                assert contents(damaged) == whole, f"{path} at {at}"
                harmless += name != "base"  # of whose two slots a crash may tear one
    assert found > 300
    assert harmless < found / 20


def test_more_is_found_than_a_start_refuses(disk):
    """The body of a sealed segment is not read at start-up."""
    damaged = copy_of(disk)
    path = f"d/{layout.segment_name(1, 1)}"
    data_of(damaged, path)[512 + 70] ^= 4
    (found,) = findings(damaged)
    assert (found.path, found.offset, found.is_in_use) == (path, 512, False)
    assert "checksum of the record's body" in found.what
    assert "from 1 on" in str(found)
    opened("d", filesystem=damaged).close()


def test_everything_behind_damage_is_checked_too(disk):
    damaged = copy_of(disk)
    names = [f"d/{name}" for name in disk.list_directory("d") if name.endswith(".segment")]
    data_of(damaged, names[0])[512 + 60] ^= 4
    data_of(damaged, names[0])[-520] ^= 1  # in the zeros behind the footer, or in the footer
    data_of(damaged, names[1])[700] ^= 4
    data_of(damaged, "d/hard_state")[20] ^= 1
    data_of(damaged, "d/metadata")[20] ^= 1
    found = {finding.path for finding in findings(damaged)}
    assert found >= {names[0], names[1], "d/hard_state", "d/metadata"}


def test_missing_and_cut_files_are_found(disk):
    for name in disk.list_directory("d"):
        damaged = copy_of(disk)
        # The newest segment may not be made yet; a log that has its first segment needs no base.
        if f"d/{name}" not in (newest(disk), "d/base"):
            damaged.names.pop(f"d/{name}")
            assert findings(damaged), name
        damaged = copy_of(disk)
        del data_of(damaged, f"d/{name}")[100:]
        assert findings(damaged), name


@pytest.fixture
def storage(tmp_path):
    storage = opened(tmp_path)
    yield storage
    storage.close()


def test_no_alarm_beside_an_owner_that_writes():
    """A step of the owner between any two steps of the check: appends, rolls, truncations, votes."""
    disk = CrashDisk()
    storage = opened("d", filesystem=disk)
    log, rng = storage.log, random.Random(4)
    steps, term = 0, 1
    while steps < 200:
        for seen in check_directory(disk, "d"):
            assert isinstance(seen, Checked) or still_found(disk, "d", [seen]) == []
            if rng.random() < 0.8:
                continue
            steps += 1
            log.append(batch(log.last_index + 1, rng.randrange(1, 6), size=rng.randrange(20, 400), term=term))
            if rng.random() < 0.5:
                log.sync()
            if rng.random() < 0.1:
                term += 1
                log.truncate_from(max(log.first_index, log.last_index - rng.randrange(10)))
            if rng.random() < 0.1:
                storage.hard_state.save(HardState(term, "n2"))
    assert len(disk.list_directory("d")) > 8


def test_a_record_that_is_being_written_is_no_finding(tmp_path, storage):
    storage.log.append(batch(1, 3, size=600))
    storage.log.sync()
    path = storage.log._open.path
    position = storage.log._open.position
    storage.log.append(batch(4, 3, size=600))
    with open(path, "r+b") as file:
        file.seek(position * 512)
        whole = file.read(4 * 512)
        file.seek(position * 512 + 512)
        file.write(bytes(512))  # a sector that is not there yet
        file.flush()
        assert findings(storage.filesystem, str(tmp_path)) == []
        file.seek(position * 512 + 512)
        file.write(whole[512:700].ljust(511, b"\0") + whole[1023:1024])  # its marker is, its contents are not
        file.flush()
        (found,) = findings(storage.filesystem, str(tmp_path))
        assert found.is_in_use
        assert still_found(storage.filesystem, str(tmp_path), [found]) == [found]
        file.seek(position * 512)
        file.write(whole)
        file.flush()
    assert still_found(storage.filesystem, str(tmp_path), [found]) == []
