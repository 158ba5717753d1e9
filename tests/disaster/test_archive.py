"""Pieces of the log, the storage that keeps them, and which of them a restore takes."""

import io
from pathlib import Path

import pytest
from django.core.files.storage import InMemoryStorage

from raftlog.consensus.configuration import Configuration
from raftlog.consensus.entries import COMMAND, EntryBatch, Run
from raftlog.consensus.snapshot import LogBase
from raftlog.disaster.pieces import PieceDamaged, read_piece, write_piece
from raftlog.disaster.restoring import Goal, archived_entries, choose_image, choose_pieces
from raftlog.disaster.store import BackupError, BackupStore, cluster_ids, open_storage_named, piece_name
from raftlog.replication.images import ImageHeader

CLUSTER_ID = "c" * 32
SECOND = 1_000_000


def batch(first_index, count=5, *, term=1, log_time=0):
    """One entry a second, from second `first_index` on."""
    runs = [Run(1, term, log_time or index * SECOND) for index in range(first_index, first_index + count)]
    return EntryBatch(first_index, runs, [bytes([COMMAND]) + f"{n}".encode() for n in range(count)])


def encoded(batches, *, previous_term=1):
    file = io.BytesIO()
    write_piece(file, "shop", CLUSTER_ID, previous_term, batches)
    return file.getvalue()


def image(index, term=1):
    base = LogBase(index, term, index * SECOND, 1, Configuration(CLUSTER_ID))
    return ImageHeader(
        vendor="sqlite", cluster="shop", cluster_id=CLUSTER_ID, base=base, tables_version=2, raftlog="1", server="",
        created_at=index * SECOND, rows={}, database_bytes=0, attachments=[], content_bytes=0, digest=b"",
    )  # fmt: skip


@pytest.fixture
def store():
    return BackupStore(InMemoryStorage(), "shop", CLUSTER_ID)


@pytest.fixture
def save(store, tmp_path):
    def save(name, data=b"image"):
        path = tmp_path / "file"
        path.write_bytes(data)
        store.save(name, path)

    return save


@pytest.fixture
def archived(save):
    """Entries 6-20 in three pieces, the last one written by two leaders, each up to another entry."""
    for first, last, term in ((6, 10, 1), (11, 15, 1), (16, 20, 2), (16, 18, 2)):
        save(piece_name(first, last), encoded([batch(first, last - first + 1, term=term)]))


def test_a_piece_comes_back_as_it_was():
    batches = [batch(6), batch(11, 3, term=2)]
    header, found = read_piece(io.BytesIO(encoded(batches)), "piece")
    assert (header.first_index, header.last_index, header.previous_term, header.last_term) == (6, 13, 1, 2)
    assert (header.first_log_time, header.last_log_time) == (6 * SECOND, 13 * SECOND)
    assert list(found) == batches


def test_a_piece_that_is_not_whole_is_refused_whichever_byte_it_is():
    data = encoded([batch(6, 3)])
    for cut in range(len(data)):
        with pytest.raises(PieceDamaged):
            list(read_piece(io.BytesIO(data[:cut]), "piece")[1])
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(PieceDamaged):
            list(read_piece(io.BytesIO(flipped), "piece")[1])
    with pytest.raises(PieceDamaged, match="does not end where it says"):
        list(read_piece(io.BytesIO(data + b"x"), "piece")[1])


def restored(store, goal, *, index=5, term=1):
    header = image(index, term)
    entries = archived_entries(store, choose_pieces(store, index, goal), header, goal)
    return [(found.first_index, found.last_index) for found in entries]


def test_entries_are_taken_once_up_to_the_goal(store, archived):
    assert restored(store, Goal()) == [(6, 10), (11, 15), (16, 18), (19, 20)]
    assert restored(store, Goal(index=12)) == [(6, 10), (11, 12)]
    assert restored(store, Goal(time=12 * SECOND + 1)) == [(6, 10), (11, 12)]
    assert restored(store, Goal(time=12 * SECOND - 1)) == [(6, 10), (11, 11)]
    assert restored(store, Goal(index=5)) == []
    assert restored(store, Goal(time=0)) == []
    assert restored(store, Goal(index=12), index=8) == [(9, 10), (11, 12)]
    with pytest.raises(BackupError, match="ends at entry 20, before entry 21"):
        restored(store, Goal(index=21))


def test_a_gap_is_no_reason_for_what_comes_before_it(store, archived):
    store.delete(piece_name(11, 15))
    assert restored(store, Goal(index=9)) == [(6, 9)]
    assert restored(store, Goal(time=9 * SECOND)) == [(6, 9)]
    for goal in (Goal(), Goal(index=17), Goal(time=17 * SECOND)):
        with pytest.raises(BackupError, match=r"entries 11-15 are not in the archive .*--to-index 10 can"):
            restored(store, goal)


def test_a_piece_of_another_history_is_refused(store, archived):
    with pytest.raises(PieceDamaged, match="of another cluster's log"):
        restored(store, Goal(), term=3)


def test_the_newest_backup_before_the_goal_is_taken(store, save):
    names = [f"image-{index:020d}-20260301T12{index:02d}00Z.raftlog" for index in (10, 20, 30)]
    for name in names:
        save(name)
    save("something-else")
    first, second, third = store.images()
    assert [found.name for found in store.images()] == names
    assert choose_image(store, Goal()) == third
    assert choose_image(store, Goal(), names[0]) == first
    assert choose_image(store, Goal(index=20)) == second
    made_at = round(second.made_at.timestamp() * SECOND)
    assert choose_image(store, Goal(time=made_at)) == first  # its name has no more than seconds
    assert choose_image(store, Goal(time=made_at + SECOND)) == second
    with pytest.raises(BackupError, match="was made after the moment"):
        choose_image(store, Goal(index=9))
    with pytest.raises(BackupError, match="there is no backup"):
        choose_image(BackupStore(store.storage, "shop", "d" * 32), Goal())


def test_old_backups_go_with_what_was_archived_before_them(store, save, archived):
    for index in (5, 12, 16):
        save(f"image-{index:020d}-20260301T12{index:02d}00Z.raftlog")
    assert store.prune(3) == []
    deleted = store.prune(2)
    assert deleted == ["image-00000000000000000005-20260301T120500Z.raftlog", piece_name(6, 10)]
    assert [found.index for found in store.images()] == [12, 16]
    assert restored(store, Goal(index=20), index=12)[0][0] == 13


def test_a_name_is_kept_though_something_was_left_under_it(store, save):
    save("piece", b"half")
    save("piece", b"whole")
    with store.opened("piece") as file:
        assert file.read() == b"whole"
    assert cluster_ids(store.storage, "shop") == [CLUSTER_ID]
    assert cluster_ids(store.storage, "other") == []


def test_what_a_storage_raises_says_which_storage(store):
    with pytest.raises(BackupError, match=f"shop/{CLUSTER_ID}"):
        store.fetch("missing", Path("/nowhere"))
    with pytest.raises(BackupError, match="STORAGES has no 'none-such'"):
        open_storage_named("none-such")
