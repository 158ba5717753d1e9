"""A directory can be looked at beside its owner, and whatever is wrong with it is said, not raised."""

from __future__ import annotations

import pytest

from raftlog.consensus.state import HardState, TermRun
from raftlog.exceptions import StorageFailed
from raftlog.storage.inspect import inspect_directory, open_for_reading
from tests.storage.helpers import all_entries, batch, configuration_batch, opened


@pytest.fixture
def storage(tmp_path):
    storage = opened(tmp_path, cluster="shop")
    storage.log.append(configuration_batch(1, "c"))
    for index in range(2, 102, 10):
        storage.log.append(batch(index, 10, size=150, term=index))
    storage.log.sync()
    storage.hard_state.save(HardState(92, "n2"))
    yield storage
    storage.close()


def test_report_beside_the_owner(tmp_path, storage):
    report = inspect_directory(tmp_path)
    assert report.problems == []
    assert report.metadata == storage.metadata
    assert report.hard_state == HardState(92, "n2")
    assert (report.first_index, report.last_index) == (1, 101)
    assert report.configuration_indices == [1]
    assert report.term_runs[:2] == [TermRun(1, 1), TermRun(2, 2)]
    assert [segment.is_open for segment in report.segments][-2:] == [False, True]
    assert report.segments[0].first_index == 1
    assert all(segment.size_bytes == 8192 for segment in report.segments)


def test_log_opened_for_reading_shows_the_entries_and_takes_none(tmp_path, storage):
    log = open_for_reading(tmp_path)
    assert all_entries(log) == all_entries(storage.log)
    with pytest.raises(StorageFailed, match="opened for reading"):
        log.append(batch(102, 1, term=99))
    log.close()


def test_reading_changes_no_byte(tmp_path, storage):
    """Not even a torn tail is touched: the owner may be writing it."""
    path = storage.log._open.path
    torn_at = storage.log._open.table.positions[-1] * 512 + 512
    storage.close()
    with open(path, "r+b") as file:
        file.seek(torn_at)
        file.write(bytes(512))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    report = inspect_directory(tmp_path)
    assert "unfinished write" in report.torn
    assert report.last_index == 91
    open_for_reading(tmp_path).close()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_problems_are_collected(tmp_path, storage):
    (tmp_path / "metadata").write_bytes(b"x")
    (tmp_path / "hard_state").write_bytes(b"x")
    report = inspect_directory(tmp_path)
    assert len(report.problems) == 2
    assert (report.metadata, report.hard_state) == (None, None)
    assert report.last_index == 101


def test_directory_that_is_not_there(tmp_path):
    report = inspect_directory(tmp_path / "none")
    assert len(report.problems) == 3
    assert "No such file" in report.problems[0]
