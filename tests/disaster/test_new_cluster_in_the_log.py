"""A log that goes on as that of another cluster is applied, and nobody keeps keys reserved before."""

import pytest
from django.db import connection

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.disaster.emptying import empty_database
from raftlog.exceptions import ApplyStopped
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.key_blocks import KeyBlocks
from tests.replication.log import CLUSTER, apply_all, opened
from tests.replication.warehouse.models import Item

TABLE = Item._meta.db_table
NEW = "d" * 32


def begins(cluster_id, *, recovered_from):
    servers = {"a": Server("ws://a", "a" * 32)}
    return encode_configuration(Configuration(cluster_id, servers, ("a",), recovered_from=recovered_from))


def key_epoch():
    connection.ensure_connection()
    return connection.connection.control.key_epoch(TABLE)


def test_the_database_follows_and_reserved_keys_are_void(replicated):
    machine = DatabaseStateMachine("default")
    log = opened()
    apply_all(machine, log.payloads)
    connection.close()
    blocks = KeyBlocks()
    before = key_epoch()
    blocks.add(TABLE, 1, 64, before)
    assert blocks.take(TABLE, 1, key_epoch()) == [1]
    connection.close()
    apply_all(machine, [begins(NEW, recovered_from=CLUSTER)])
    assert machine.position() == (NEW, 4, 1)
    machine.close()
    assert key_epoch() == 4 > before
    assert blocks.take(TABLE, 1, key_epoch()) is None
    assert blocks.missing(TABLE, 1, key_epoch())
    connection.close()
    assert DatabaseStateMachine("default").position() == (NEW, 4, 1)


def test_a_configuration_of_any_other_cluster_is_still_refused(replicated):
    machine = DatabaseStateMachine("default")
    apply_all(machine, opened().payloads)
    with pytest.raises(ApplyStopped, match=f"entry 4 is of cluster {NEW}, the database of cluster {CLUSTER}"):
        apply_all(machine, [begins(NEW, recovered_from="e" * 32)])
    assert machine.position() == (CLUSTER, 3, 1)
    machine.close()


def test_a_database_is_emptied(replicated):
    Item.objects.create(name="there", stock=1)
    notes = empty_database("default", "20260101-000000")
    if replicated == "sqlite":
        assert any(".before-20260101-000000" in note for note in notes)
        return  # the file is made anew by the node alone
    assert "tables and views" in notes[0]
    with connection.cursor() as cursor:
        assert connection.introspection.table_names(cursor) == []
