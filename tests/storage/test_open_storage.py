"""A directory has one owner and one identity, is made whole or not at all, and says what is wrong with it."""

from __future__ import annotations

import errno
import os

import pytest

from raftlog.consensus.state import HardState
from raftlog.exceptions import DirectoryInUse, DiskFull, IdentityMismatch, LogDamaged, StorageFailed
from raftlog.storage import open_storage
from raftlog.storage.layout import check_identity, encode_metadata, parse_segment_name, segment_name
from raftlog.testing.crash_disk import CrashDisk
from tests.storage.helpers import INCARNATION, batch, opened


def test_new_directory_is_made_with_its_parents(tmp_path):
    directory = tmp_path / "var" / "raft"
    storage = opened(directory, cluster="shop")
    assert sorted(os.listdir(directory)) == ["base", "hard_state", "lock", segment_name(1, 1), "metadata"]
    assert storage.metadata.node_id == "n1"
    assert storage.metadata.cluster == "shop"
    assert storage.metadata.incarnation == INCARNATION
    assert storage.metadata.cluster_id == ""
    assert os.stat(directory).st_mode & 0o077 == 0
    storage.close()


def test_second_owner_is_refused_naming_the_first(tmp_path):
    storage = opened(tmp_path)
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"):
        opened(tmp_path)
    storage.close()
    opened(tmp_path).close()


def test_owner_is_free_again_after_a_refusal(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(IdentityMismatch):
        opened(tmp_path, node_id="n2")
    opened(tmp_path).close()


def test_incarnation_is_drawn_once(tmp_path):
    opened(tmp_path).close()
    storage = opened(tmp_path, new_incarnation="ff" * 16)
    assert storage.metadata.incarnation == INCARNATION
    storage.close()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"node_id": "n2"}, ["node_id", "'n1'", "'n2'"]),
        ({"cluster": "other"}, ["cluster", "'shop'", "'other'"]),
        ({"cluster_id": "99" * 16}, ["cluster_id", "'" + "88" * 16, "'" + "99" * 16]),
    ],
)
def test_identity_mismatch_names_both_values(tmp_path, options, names):
    opened(tmp_path, cluster="shop", cluster_id="88" * 16).close()
    with pytest.raises(IdentityMismatch) as caught:
        opened(tmp_path, **options)
    assert all(name in str(caught.value) for name in names)


def test_unknown_cluster_is_no_mismatch(tmp_path):
    opened(tmp_path, cluster="shop").close()
    opened(tmp_path).close()


def test_cluster_id_is_set_once(tmp_path):
    storage = opened(tmp_path)
    storage.set_cluster_id("aa" * 16)
    storage.set_cluster_id("aa" * 16)
    with pytest.raises(IdentityMismatch, match=r"aaaa.*bbbb"):
        storage.set_cluster_id("bb" * 16)
    storage.close()
    storage = opened(tmp_path)
    assert storage.metadata.cluster_id == "aa" * 16
    storage.close()


def test_cluster_id_given_at_opening_is_kept(tmp_path):
    opened(tmp_path).close()
    opened(tmp_path, cluster_id="aa" * 16).close()
    storage = opened(tmp_path)
    assert storage.metadata.cluster_id == "aa" * 16
    storage.close()


def test_every_flip_in_the_metadata_is_refused(tmp_path):
    opened(tmp_path, cluster="shop").close()
    path = tmp_path / "metadata"
    whole = path.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(LogDamaged, match="metadata"):
            opened(tmp_path)


def test_format_of_a_later_version_is_refused_as_such(tmp_path):
    storage = opened(tmp_path)
    metadata = storage.metadata
    storage.close()
    newer = type(metadata)(2, metadata.cluster, metadata.cluster_id, metadata.node_id, metadata.incarnation)
    (tmp_path / "metadata").write_bytes(encode_metadata(newer))
    with pytest.raises(IdentityMismatch, match="format 2"):
        opened(tmp_path)


def test_metadata_that_vanished_from_a_used_directory_is_damage(tmp_path):
    storage = opened(tmp_path)
    storage.hard_state.save(HardState(3, "n1"))
    storage.close()
    (tmp_path / "metadata").unlink()
    with pytest.raises(LogDamaged, match="missing, though"):
        opened(tmp_path)


def test_metadata_that_vanished_beside_a_log_is_damage(tmp_path):
    storage = opened(tmp_path)
    storage.log.append(batch(1, 1))
    storage.log.sync()
    storage.close()
    (tmp_path / "metadata").unlink()
    with pytest.raises(LogDamaged, match="missing, though"):
        opened(tmp_path)


def test_directory_that_was_not_finished_is_made_again(tmp_path):
    opened(tmp_path).close()
    (tmp_path / "metadata").unlink()
    (tmp_path / "hard_state").unlink()
    (tmp_path / "metadata.new").write_bytes(b"half")
    storage = opened(tmp_path, new_incarnation="cc" * 16)
    assert storage.metadata.incarnation == "cc" * 16
    assert "metadata.new" not in os.listdir(tmp_path)
    storage.close()


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "README").write_text("mine")
    opened(tmp_path).close()
    assert (tmp_path / "README").read_text() == "mine"


def test_full_disk_at_the_beginning_is_said_as_such():
    disk = CrashDisk()
    disk.room = 0
    with pytest.raises(DiskFull, match="d could not be opened or written"):
        opened("d", filesystem=disk)
    disk.room = None
    opened("d", filesystem=disk)


def test_unreadable_directory_is_a_storage_failure():
    class Unreadable(CrashDisk):
        def list_directory(self, path):
            raise PermissionError(errno.EACCES, "Permission denied", path)

    with pytest.raises(StorageFailed, match="Permission denied"):
        opened("d", filesystem=Unreadable())


def test_segment_size_below_the_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="segment_bytes 100 is below 4096"):
        open_storage(tmp_path, node_id="n1", segment_bytes=100)


def test_segment_names():
    assert parse_segment_name(segment_name(3, 41)) == (3, 41)
    assert segment_name(2, 1) < segment_name(10, 1)
    assert parse_segment_name("log-1-1.segment") is None
    assert parse_segment_name(segment_name(3, 41) + ".new") is None


def test_empty_values_never_mismatch(tmp_path):
    storage = opened(tmp_path)
    check_identity("x", storage.metadata, node_id="n1", cluster="anything", cluster_id="anything")
    storage.close()
