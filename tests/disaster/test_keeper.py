"""What a node archives and backs up by itself: on the leader only, each entry once, with words for what goes wrong."""

import logging

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage

from raftlog import conf
from raftlog.consensus.configuration import Configuration
from raftlog.consensus.entries import COMMAND, EntryBatch, Run
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import Role
from raftlog.disaster import keeper as module
from raftlog.disaster.backups import describer
from raftlog.disaster.keeper import Keeper
from raftlog.disaster.pieces import read_piece
from raftlog.disaster.store import BackupError, BackupStore, piece_name
from raftlog.runtime.monitor import Monitor
from raftlog.storage.memory import MemoryLog

CLUSTER_ID = "c" * 32


class Raft:
    """As much of a node's core as is asked."""

    def __init__(self, log):
        self.log = self
        self.store = log
        self.role = Role.LEADER
        self.configuration = Configuration(CLUSTER_ID)

    @property
    def commit_index(self):
        return self.store.last_index

    def term_at(self, index):
        return 0 if index == 0 else self.store.read(index, index, 1).last_term if index > self.store.base.index else 7


class Service:
    def __init__(self, log):
        self.state = self
        self.monitor = Monitor()
        self.raft = Raft(log)


@pytest.fixture
def storage(monkeypatch):
    storage = InMemoryStorage()
    monkeypatch.setattr(module, "open_storage_named", lambda alias: storage)
    return storage


@pytest.fixture
def log():
    log = MemoryLog()
    append(log, 5)
    return log


def append(log, count, term=1):
    first = log.last_index + 1
    log.append(EntryBatch(first, [Run(count, term, first * 1_000)], [bytes([COMMAND]) + b"x" * 40] * count))
    log.sync()


@pytest.fixture
def make(storage, log, tmp_path):
    def make(log=log):
        raw = {"CLUSTER": "shop", "DATA_DIR": tmp_path, "BACKUP_STORAGE": "default", "ARCHIVE_INTERVAL": 60}
        settings = conf.load_settings(raw)
        return Keeper(settings, Service(log), log, lambda index: LogBase(index), lambda name, error: None)

    return make


def stored(storage):
    """(first index, last index, term before) of each piece."""
    store, found = BackupStore(storage, "shop", CLUSTER_ID), []
    for piece in store.pieces():
        with store.opened(piece.name) as file:
            header, batches = read_piece(file, piece.name)
            assert sum(map(len, batches)) == piece.last_index - piece.first_index + 1
            found.append((header.first_index, header.last_index, header.previous_term))
    return found


def test_each_entry_once_also_over_a_restart_and_a_change_of_leader(make, storage, log):
    keeper = make()
    keeper.archive()
    keeper.archive()
    append(log, 3, term=2)
    keeper.archive()
    assert stored(storage) == [(1, 5, 0), (6, 8, 1)]
    append(log, 1, term=2)
    other = make()
    other.archive()
    assert stored(storage) == [(1, 5, 0), (6, 8, 1), (9, 9, 2)]
    append(log, 1, term=2)
    keeper._state.raft.role = Role.FOLLOWER
    keeper.archive()
    assert keeper.archived_index == 9  # it has seen what the leader did
    assert len(stored(storage)) == 3
    keeper._state.raft.role = Role.LEADER
    keeper.archive()
    assert stored(storage)[3:] == [(10, 10, 2)]
    assert keeper.status()["backup"]["archived_index"] == 10


def test_a_long_log_goes_in_pieces(make, storage, log, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    monkeypatch.setattr(module, "READ_BYTES", 41)
    make().archive()
    assert [last for _, last, _ in stored(storage)] == [3, 5]


def test_entries_that_were_compacted_unarchived_are_named(make, storage, caplog):
    log = MemoryLog()
    log.reset_to(LogBase(20, 7, 1_000, 1, Configuration(CLUSTER_ID)))
    append(log, 2, term=7)
    storage.save(f"shop/{CLUSTER_ID}/{piece_name(1, 10)}", ContentFile(b""))
    with caplog.at_level(logging.WARNING, "raftlog.backup"):
        make(log).archive()
    assert "entries 11-20 were compacted before they were archived" in caplog.text
    names = [piece.name for piece in BackupStore(storage, "shop", CLUSTER_ID).pieces()]
    assert names == [piece_name(1, 10), piece_name(21, 22)]


def test_the_log_is_kept_until_it_is_archived_but_not_for_ever(make, log, monkeypatch, tmp_path):
    keeper = make()
    assert keeper.log_must_keep_after() == 0
    keeper.archive()
    assert keeper.log_must_keep_after() == 5
    (tmp_path / "log-0000000001-00000000000000000001.segment").write_bytes(b"x" * 100)
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 99)
    assert keeper.log_must_keep_after() > log.last_index
    assert "what is not archived is given up" in keeper.status()["warnings"][0]


def test_a_storage_that_fails_shows_in_the_status_until_it_works_again(make, storage, monkeypatch):
    keeper = make()

    class OneRound:
        def __init__(self):
            self.left = 1

        def wait(self, timeout):
            self.left -= 1
            return self.left < 0

        def is_set(self):
            return False

    def fails(*arguments):
        raise BackupError("no route to the object store")

    with monkeypatch.context() as patched:
        patched.setattr(BackupStore, "save", fails)
        keeper._stopping = OneRound()
        keeper._archive_main()
    assert keeper.status()["warnings"] == ["archive: no route to the object store"]
    keeper._stopping = OneRound()
    keeper._archive_main()
    assert keeper.status()["warnings"] == []
    assert stored(storage) == [(1, 5, 0)]


def test_what_was_compacted_meanwhile_is_no_death_of_the_node(make, storage, log):
    keeper = make()
    keeper.archive()
    append(log, 2)
    log.compact_to(LogBase(6, 1, 6_000, 1, Configuration(CLUSTER_ID)))
    keeper._state.raft.term_at = lambda index: [][index]
    keeper.archived_index = 6
    with pytest.raises(BackupError, match="does not begin before entry 7 any more"):
        keeper._archive_piece(BackupStore(storage, "shop", CLUSTER_ID), 7)
    service = Service(log)
    service.raft.base_at = lambda index: [][index]
    with pytest.raises(BackupError, match="does not hold entry 3"):
        describer(service, log)(3)
