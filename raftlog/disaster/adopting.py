"""In and out: a stock Django database becomes the first state of a cluster, and a replicated one becomes stock again.

In: entry 1 of the log is the configuration of a cluster of one, applied to the database by the code that applies any
entry; raftlog's tables are made beside the project's, and what is in those is the state at entry 1. The log begins
after it, as if it had been compacted, so that whoever joins gets an image of the database and not a log that lacks
what was there before.

Out: raftlog's own tables go, with the functions and triggers that it keeps in PostgreSQL.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from pathlib import Path
from typing import Any

from django.db import connections

from raftlog.conf import Settings
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import HardState
from raftlog.disaster.emptying import move_folder, raw_postgresql
from raftlog.exceptions import RaftlogError
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.shapes import OWN_TABLES
from raftlog.runtime import clock
from raftlog.storage import Storage, open_storage


class AdoptError(RaftlogError):
    """A database cannot become a cluster's first state, or go back; the text says why."""


def project_tables(alias: str) -> list[str]:
    """Tables of the database that are not raftlog's, in order. An SQLite file that is missing is not made."""
    connection = connections[alias]
    if connection.vendor == "sqlite" and not _is_there(connection.settings_dict["NAME"]):
        return []
    try:
        return sorted(name for name in connection.introspection.table_names() if name not in OWN_TABLES)
    finally:
        connection.close()


def _is_there(name: Any) -> bool:
    return Path(str(name)).exists()


def data_of_this_host_alone(alias: str) -> str:
    """A warning for a node whose log is empty and whose replicated database is not; "" where there is none."""
    if not hasattr(connections[alias], "apply_port"):
        return ""  # an ENGINE of Django's own: each host makes its tables
    tables = project_tables(alias)
    if not tables:
        return ""
    return (
        f"DATABASES[{alias!r}] has {len(tables)} tables already, and the log is empty: other hosts get them only if "
        "they begin with a copy, or if this one adopts its database first (manage.py raft init --adopt)"
    )


def adopt(settings: Settings) -> Configuration:
    """Make this host, which has a database and no log, a cluster of one. Returns its configuration.

    What was interrupted is gone on with. Raises AdoptError, DirectoryInUse, StorageError, ApplyStopped, and what the
    database raises.
    """
    storage = open_storage(
        settings.data_dir,
        node_id=settings.node_id,
        cluster=settings.cluster,
        new_incarnation=uuid.uuid4().hex,
        segment_bytes=settings.segment_bytes,
    )
    try:
        if storage.log.last_index > 1 or (storage.log.last_index == 1 and storage.log.base.index == 0):
            raise AdoptError(f"{settings.data_dir} has a log already, up to entry {storage.log.last_index}")
        storage.set_cluster_id(storage.metadata.cluster_id or uuid.uuid4().hex)
        metadata = storage.metadata
        server = Server(settings.address, metadata.incarnation)
        configuration = Configuration(metadata.cluster_id, {settings.node_id: server}, (settings.node_id,))
        log_time = storage.log.base.log_time or clock.wall_microseconds()
        _apply_first_entry(settings.database, configuration, log_time)
        _begin_log(storage, LogBase(1, 1, log_time, 1, configuration, 1))
        return configuration
    finally:
        storage.close()


def _apply_first_entry(alias: str, configuration: Configuration, log_time: int) -> None:
    machine = DatabaseStateMachine(alias)
    try:
        cluster_id, index, term = machine.position()
        if index == 0:
            machine.apply(EntryBatch(1, [Run(1, 1, log_time)], [encode_configuration(configuration)]))
        elif (cluster_id, index, term) != (configuration.cluster_id, 1, 1):
            raise AdoptError(
                f"DATABASES[{alias!r}] is replicated already (entry {index} of cluster {cluster_id or 'none'}); if it "
                "is to begin anew, take raftlog's tables out of it first: manage.py raft leave"
            )
    finally:
        machine.close()
        connections[alias].close()


def _begin_log(storage: Storage, base: LogBase) -> None:
    if storage.log.base.index == 0:
        storage.log.reset_to(base)
    if storage.hard_state.load().current_term == 0:
        storage.hard_state.save(HardState(1, ""))


def leave(settings: Settings, stamp: str) -> list[str]:
    """Take raftlog out of this host's database, and set its folder aside. Returns what was done, in words.

    The node does not run. Raises DirectoryInUse, OSError, and what the database raises.
    """
    done = move_folder(settings, stamp)
    connection = connections[settings.database]
    connection.close()
    if connection.vendor == "sqlite":
        _drop_sqlite_tables(str(connection.settings_dict["NAME"]))
    else:
        _drop_postgresql_tables(settings.database)
    return [*done, f"raftlog's tables are gone from DATABASES[{settings.database!r}]"]


def _drop_sqlite_tables(name: str) -> None:
    with contextlib.closing(sqlite3.connect(name, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        for table in OWN_TABLES:
            raw.execute(f"DROP TABLE IF EXISTS {table}")
        raw.execute("COMMIT")


def _drop_postgresql_tables(alias: str) -> None:
    with raw_postgresql(alias) as raw, raw.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS raftlog CASCADE")  # and with its functions the triggers that call them
        for table in OWN_TABLES:
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
