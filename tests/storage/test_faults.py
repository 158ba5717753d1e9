"""The environment variable makes the disk of a running node fail, fill, slow down or hang, and heal again."""

from __future__ import annotations

import json
import os
import threading

import pytest

from raftlog.consensus.state import HardState
from raftlog.exceptions import DiskFull, StorageFailed
from raftlog.storage.faults import ENVIRONMENT_VARIABLE, FaultyFileSystem, default_filesystem
from raftlog.storage.filesystem import RealFileSystem
from tests.storage.helpers import batch, opened


@pytest.fixture
def control(tmp_path, monkeypatch):
    path = tmp_path / "faults.json"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))

    def set_faults(faults):
        (tmp_path / "new").write_text(json.dumps(faults))
        os.replace(tmp_path / "new", path)

    return set_faults


@pytest.fixture
def storage(tmp_path, control):
    storage = opened(tmp_path / "data")
    yield storage
    storage.close()


def test_without_the_variable_there_are_no_faults(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert isinstance(default_filesystem(), RealFileSystem)


def test_with_the_variable_and_no_file_all_is_well(control, storage):
    assert isinstance(default_filesystem(), FaultyFileSystem)
    storage.log.append(batch(1, 1))
    storage.log.sync()


@pytest.mark.parametrize("fault", [{"sync": {"errno": "EIO"}}, {"fdatasync": {"fail": True}}])
def test_failing_sync(control, storage, fault):
    storage.log.append(batch(1, 1))
    control(fault)
    with pytest.raises(StorageFailed, match=ENVIRONMENT_VARIABLE):
        storage.log.sync()


def test_full_disk_comes_and_goes(control, storage):
    storage.log.append(batch(1, 1))
    control({"write": {"errno": "ENOSPC"}})
    with pytest.raises(DiskFull):
        storage.log.append(batch(2, 1))
    storage.hard_state.save(HardState(1, "n1"))  # its space is reserved, as on a real full disk
    control({})
    storage.log.append(batch(2, 1))
    storage.log.sync()
    assert storage.log.last_index == 2


def test_no_room_for_a_new_segment(control, storage):
    control({"create": {"errno": "ENOSPC"}})
    storage.log.append(batch(1, 1))
    with pytest.raises(DiskFull):
        storage.log.append(batch(2, 10, size=2000))


def test_fault_for_some_paths_only(control, storage):
    control({"sync": {"errno": "EIO", "match": "hard_state"}})
    storage.log.append(batch(1, 1))
    storage.log.sync()
    with pytest.raises(StorageFailed):
        storage.hard_state.save(HardState(1, "n1"))


def test_stalled_sync_goes_on_when_the_fault_ends(control, storage):
    control({"sync": {"stall": True}})
    storage.log.append(batch(1, 1))
    thread = threading.Thread(target=storage.log.sync, name="syncing")
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    control({})
    thread.join(10)
    assert not thread.is_alive()


def test_control_file_that_is_half_written_is_read_again(control, storage, tmp_path):
    (tmp_path / "faults.json").write_text('{"sync": {"err')
    storage.log.append(batch(1, 1))
    storage.log.sync()
    control({"sync": {"errno": "EIO"}})
    storage.log.append(batch(2, 1))
    with pytest.raises(StorageFailed):
        storage.log.sync()
