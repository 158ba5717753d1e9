"""Each node gives up the beginning of its log by policy, and never what it or another one may need."""

import pytest

from raftlog.exceptions import DatabaseLost, ImageError
from raftlog.snapshots.compaction import LogFile, Policy, keep_from, why_compact
from raftlog.snapshots.healing import refuse_lost
from tests.snapshots.cluster import SnapshotCluster

FILES = [LogFile(1, 100), LogFile(11, 100), LogFile(31, 100), LogFile(41, 100)]


@pytest.mark.parametrize(
    ("limits", "age", "reason"),
    [
        ((400, 50, 60), 60, ""),
        ((399, 50, 60), 60, "400 bytes"),
        ((400, 49, 60), 60, "50 entries"),
        ((400, 50, 60), 61, "entries 61 s old"),
    ],
)
def test_the_log_is_compacted_where_it_passes_one_of_three_limits(limits, age, reason):
    assert why_compact(Policy(*limits, 0, 0), FILES, 50, age) == reason


@pytest.mark.parametrize(
    ("keep_bytes", "keep_entries", "first_kept"),
    [(0, 0, 51), (1, 0, 41), (100, 0, 41), (101, 0, 31), (0, 15, 36), (101, 15, 31), (100, 15, 36), (10_000, 0, 1)],
)
def test_it_keeps_so_many_bytes_and_so_many_entries_at_least(keep_bytes, keep_entries, first_kept):
    assert keep_from(Policy(0, 0, 0, keep_bytes, keep_entries), FILES, 50) == first_kept


@pytest.fixture
def cluster(tmp_path):
    with SnapshotCluster(3, tmp_path) as made:
        made.write(100)
        made.wait_equal()
        yield made


def test_the_log_goes_on_after_it_was_compacted(cluster):
    cluster.compact("a", "b", "c")
    assert all(store.first_index == store.last_index + 1 for store in cluster.log_stores.values())
    cluster.write(5)
    cluster.wait_equal()
    assert all(len(machine.applied) >= 105 for machine in cluster.machines.values())


def test_it_is_compacted_while_entries_are_written(cluster):
    """The log-sync thread lets who compacts go first, and nobody writes meanwhile."""
    for _ in range(10):
        cluster.write(20)
        cluster.compactors[cluster.leader()].look()
    cluster.wait_equal()


def test_what_a_power_cut_would_take_from_the_database_stays(cluster):
    compactor = cluster.compactors["a"]
    compactor._make_durable = lambda: 40
    assert compactor.look() == 40


def test_what_is_kept_for_others_stays(cluster):
    compactor = cluster.compactors["a"]
    compactor.floors += [lambda: None, lambda: 30]
    assert compactor.look() == 30
    assert compactor.look() == 0


def test_a_database_that_cannot_be_made_durable_is_told(cluster):
    compactor = cluster.compactors["a"]

    def fail():
        raise ImageError("the disk is ill")

    compactor._make_durable = fail
    with pytest.raises(ImageError):
        compactor.look()


def test_an_only_member_that_lost_what_its_log_does_not_have_is_told_the_ways_out(tmp_path):
    with SnapshotCluster(1, tmp_path) as cluster:
        cluster.write(20)
        cluster.wait_equal()
        raft = cluster.raft("a")
        refuse_lost(raft, 0)  # the log has everything
        cluster.compact("a")
        refuse_lost(raft, raft.log.base.index)
        with pytest.raises(DatabaseLost, match="raft restore"):
            refuse_lost(raft, 3)
