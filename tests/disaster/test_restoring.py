"""A backup and what was archived after it become the first node of a new cluster, by the code that applies any log."""

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.utils import timezone

from raftlog import conf
from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.snapshot import LogBase
from raftlog.disaster.backups import back_up_to_file
from raftlog.disaster.emptying import empty_database
from raftlog.disaster.restoring import refuse_data, restore
from raftlog.disaster.store import BackupError
from raftlog.exceptions import IdentityMismatch
from raftlog.management.raft.restore import has_tables, parse_time
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.images.operations import VENDORS
from raftlog.replication.position import check_position
from raftlog.runtime.loading import load_log
from raftlog.storage import open_storage
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
    if replicated not in VENDORS:
        pytest.skip(f"there are no images of {replicated} yet")
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
