"""A backup and what was archived after it become the first node of a new cluster, by the code that applies any log."""

from datetime import UTC, datetime

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage
from django.db import connection
from django.utils import timezone

from raftlog import conf
from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import Role
from raftlog.disaster.backups import back_up_to_file, describe_from_folder, verify_file
from raftlog.disaster.emptying import empty_database
from raftlog.disaster.keeper import Keeper
from raftlog.disaster.restoring import refuse_data, restore
from raftlog.disaster.store import BackupError, BackupStore
from raftlog.exceptions import IdentityMismatch
from raftlog.management.raft.restore import has_tables, parse_time
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.position import check_position
from raftlog.runtime.loading import load_log
from raftlog.storage import open_storage
from raftlog.storage.memory import MemoryLog
from tests.disaster.test_keeper import Service
from tests.replication.log import CLUSTER, START, apply_all, batch, opened
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item

MEMBERS = Configuration(CLUSTER, {"x": Server("ws://x", "f" * 32)}, ("x",))


@pytest.fixture
def settings(tmp_path):
    return conf.load_settings({"CLUSTER": "raftlog", "NODE_ID": "a", "DATA_DIR": tmp_path / "new"})


@pytest.fixture
def backup(replicated, tmp_path):
    """(path, entries after it): the backup is of entry 4, with one item; two more were added after it."""
    machine, log = DatabaseStateMachine("default"), opened()
    for name in ("in the backup", "archived", "too late"):
        log.add(commands.add_item, name=name)
    apply_all(machine, log.payloads[:4])
    path = tmp_path / "backup"
    header = back_up_to_file(
        "default", path, lambda index, term: LogBase(index, term, START, 1, MEMBERS, 3), lambda done, total: None
    )
    assert (header.index, header.cluster_id) == (4, CLUSTER)
    with pytest.raises(BackupError, match="exists already"):
        back_up_to_file("default", path, lambda index, term: LogBase(), lambda done, total: None)
    apply_all(machine, log.payloads[4:])
    machine.close()
    return path, [batch([payload], 5 + number) for number, payload in enumerate(log.payloads[4:])]


def start(settings):
    """As a node does: its database is a point of its log, and what the log holds is applied."""
    storage = open_storage(settings.data_dir, node_id="a", cluster="raftlog")
    try:
        log = load_log(storage.log)
        machine = DatabaseStateMachine("default")
        check_position(machine, log, storage.metadata.cluster_id)
        while machine.last_applied < log.last_index:
            machine.apply(storage.log.read(machine.last_applied + 1, log.last_index, 1 << 20))
        position = machine.position()
        machine.close()
        return log, storage.hard_state.load(), position
    finally:
        storage.close()


def test_up_to_an_entry_after_the_backup(backup, settings):
    path, entries = backup
    empty_database("default", "before")
    made = restore(settings, path, lambda header: iter(entries[:1]), lambda done, total: None)
    assert made.last_index == 5
    log, hard_state, position = start(settings)
    assert (log.base.index, log.last_index) == (4, 6)
    assert log.configuration == (6, made.configuration)
    assert list(made.configuration.servers) == ["a"]
    assert made.configuration.recovered_from == CLUSTER
    # Above the term in which the backup was known to be committed.
    assert hard_state.current_term == log.last_term == 4
    assert position == (made.configuration.cluster_id, 6, 4)
    assert sorted(Item.objects.values_list("name", flat=True)) == ["archived", "in the backup"]
    connection.close()


def test_a_restore_that_was_interrupted_is_not_taken_for_whole(backup, settings, monkeypatch):
    path, _ = backup
    empty_database("default", "before")

    def fails(*arguments, **keywords):
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr("raftlog.disaster.restoring.begin_new_cluster", fails)
        with pytest.raises(OSError, match="the power went"):
            restore(settings, path, lambda header: iter(()), lambda done, total: None)
    with pytest.raises(IdentityMismatch, match="was interrupted here"):
        start(settings)
    connection.close()


def test_a_host_that_has_data_is_refused(backup, settings):
    with pytest.raises(BackupError, match=r"this host has tables in DATABASES\['default'\]: with --replace"):
        refuse_data(settings, has_tables("default"))
    connection.close()
    empty_database("default", "before")
    refuse_data(settings, has_tables("default"))
    restore(settings, backup[0], lambda header: iter(()), lambda done, total: None)
    with pytest.raises(BackupError, match=r"a node's folder in .* and tables in"):
        refuse_data(settings, has_tables("default"))


def test_times_are_read_in_the_projects_zone_where_they_have_none():
    assert parse_time("2026-03-01T12:00:00Z") == datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1e6
    naive = timezone.make_aware(datetime(2026, 3, 1, 12, 0, 0, 250_000))
    assert parse_time("2026-03-01 12:00:00.25") == naive.timestamp() * 1e6
    assert parse_time(None) is None
    for wrong in ("three o'clock", "2026-02-30 12:00"):
        with pytest.raises(BackupError, match="--to-time"):
            parse_time(wrong)


def test_where_no_node_runs_the_folder_tells_what_the_database_stands_at(settings, tmp_path):
    storage = open_storage(settings.data_dir, node_id="a", cluster="raftlog", new_incarnation="a" * 32)
    for number, payload in enumerate(opened().payloads):
        storage.log.append(batch([payload], 1 + number, log_time=START + number))
    storage.log.sync()
    storage.close()
    base = describe_from_folder(settings)(2, 1)
    assert (base.index, base.term, base.log_time) == (2, 1, START + 1)
    assert base.configuration.cluster_id == CLUSTER
    with pytest.raises(BackupError, match="is not that of the database"):
        describe_from_folder(settings)(2, 7)
    with pytest.raises(BackupError, match="cannot be read"):
        describe_from_folder(settings)(9, 1)


def test_the_leader_backs_up_when_it_is_due_and_keeps_so_many(backup, tmp_path, monkeypatch):
    raw = {"DATA_DIR": tmp_path / "new", "BACKUP_STORAGE": "default", "BACKUP_INTERVAL": 3600, "BACKUP_KEEP": 2}
    storage = InMemoryStorage()
    monkeypatch.setattr("raftlog.disaster.keeper.open_storage_named", lambda alias: storage)
    service = Service(MemoryLog())
    service.raft.configuration = Configuration(CLUSTER)
    term = DatabaseStateMachine("default").position()[2]
    connection.close()
    keeper = Keeper(
        conf.load_settings(raw),
        service,
        None,
        lambda index: LogBase(index, term, START, 1, MEMBERS),
        lambda *died: None,
    )
    store = BackupStore(storage, "raftlog", CLUSTER)
    for index, when in ((1, "20260101T000000Z"), (2, "20260102T000000Z")):
        storage.save(f"raftlog/{CLUSTER}/image-{index:020d}-{when}.raftlog", ContentFile(b""))
    service.raft.role = Role.FOLLOWER
    keeper.back_up_if_due()
    assert [image.index for image in store.images()] == [1, 2]
    service.raft.role = Role.LEADER
    keeper.back_up_if_due()
    assert [image.index for image in store.images()] == [2, 6]
    keeper.back_up_if_due()
    assert [image.index for image in store.images()] == [2, 6]
    newest = keeper.status()["backup"]["newest"]
    assert (newest["name"], newest["index"]) == (store.images()[-1].name, 6)
    path = tmp_path / "fetched"
    store.fetch(newest["name"], path)
    assert verify_file(path, lambda done, total: None).index == 6
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(BackupError):
        verify_file(path, lambda done, total: None)
