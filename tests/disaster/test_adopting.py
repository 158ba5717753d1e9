"""A stock database becomes the first state of a cluster, and a stock database again."""

import sqlite3

import pytest
from django.db import connection

from raftlog import conf
from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.state import HardState
from raftlog.disaster import adopting
from raftlog.disaster.adopting import AdoptError, adopt, data_of_this_host_alone, leave, project_tables
from raftlog.exceptions import IdentityMismatch
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.position import check_position
from raftlog.runtime.loading import load_log
from raftlog.storage import open_storage
from tests.backends import postgresql
from tests.replication.conftest import default_database, make_tables
from tests.replication.log import batch, opened
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item


@pytest.fixture
def settings(tmp_path):
    return conf.load_settings({"CLUSTER": "shop", "NODE_ID": "a", "DATA_DIR": tmp_path / "raft"})


@pytest.fixture(params=["sqlite3", "postgresql"])
def databases(request, tmp_path, django_db_blocker):
    """(settings of the stock ENGINE, of raftlog's); the former's has two items and a gap in their keys."""
    if request.param == "sqlite3":
        stock = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
        ours = {**stock, "ENGINE": "raftlog.backends.sqlite3"}
    else:
        ours = postgresql.settings(0)
        stock = {**ours, "ENGINE": "django.db.backends.postgresql"}
    with django_db_blocker.unblock():
        with default_database(stock):
            make_tables()
            for name in ("one", "two", "three"):
                Item.objects.create(name=name)
            Item.objects.filter(name="three").delete()
        yield stock, ours


def opened_node(settings):
    storage = open_storage(settings.data_dir, node_id="a", cluster="shop")
    try:
        log, machine = load_log(storage.log), DatabaseStateMachine("default")
        check_position(machine, log, storage.metadata.cluster_id)
        return log, machine, storage.hard_state.load()
    finally:
        storage.close()


def test_what_is_there_is_the_state_at_entry_one_and_goes_on_from_there(databases, settings):
    stock, ours = databases
    with default_database(ours):
        assert "warehouse_item" in project_tables("default")
        assert "raft init --adopt" in data_of_this_host_alone("default")
        configuration = adopt(settings)
        log, machine, hard_state = opened_node(settings)
        assert (log.base.index, log.last_index, log.configuration) == (1, 1, (1, configuration))
        assert hard_state == HardState(1, "")
        assert machine.position() == (configuration.cluster_id, 1, 1)
        writer = opened()
        writer.payloads.clear()
        writer.open()
        writer.add(commands.add_item, name="four")
        machine.apply(batch(writer.payloads, 2))
        machine.close()
        assert sorted(Item.objects.values_list("name", flat=True)) == ["four", "one", "two"]
        connection.close()
        with pytest.raises(AdoptError, match="is replicated already"):
            adopt(settings)
        assert any("tables are gone" in text for text in leave(settings, "before"))
    assert not settings.data_dir.exists()
    with default_database(stock):
        tables = connection.introspection.table_names()
        assert not [name for name in tables if name.startswith("raftlog")]
        Item.objects.create(name="five")
        Item.objects.filter(name="one").update(stock=7)
        assert sorted(Item.objects.values_list("name", flat=True)) == ["five", "four", "one", "two"]
    with default_database(ours):
        assert adopt(settings).cluster_id != configuration.cluster_id
        connection.close()


def test_what_was_interrupted_is_gone_on_with(databases, settings, monkeypatch):
    _, ours = databases

    def fails(*arguments):
        raise OSError("the power went")

    with default_database(ours):
        for broken in ("_apply_first_entry", "_begin_log"):
            with monkeypatch.context() as patched:
                patched.setattr(adopting, broken, fails)
                with pytest.raises(OSError, match="the power went"):
                    adopt(settings)
        with pytest.raises(IdentityMismatch):
            opened_node(settings)
        connection.close()
        configuration = adopt(settings)
        assert opened_node(settings)[0].configuration == (1, configuration)
        connection.close()


def test_a_folder_or_a_database_of_a_cluster_is_refused(databases, settings, tmp_path):
    _, ours = databases
    storage = open_storage(settings.data_dir, node_id="a", cluster="shop", new_incarnation="a" * 32)
    storage.log.append(EntryBatch(1, [Run(1, 1, 1)], [b"\0"]))
    storage.log.sync()
    storage.close()
    with default_database(ours), pytest.raises(AdoptError, match="has a log already, up to entry 1"):
        adopt(settings)


def test_a_missing_sqlite_file_has_no_tables_and_is_not_made(tmp_path, django_db_blocker):
    path = tmp_path / "missing.sqlite3"
    with django_db_blocker.unblock(), default_database({"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}):
        assert project_tables("default") == []
        assert not path.exists()
        sqlite3.connect(path).close()
        assert project_tables("default") == []
