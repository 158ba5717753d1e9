"""Make a host's folder and database empty, so that its node can join a cluster; what was there is kept beside it.

A folder or an SQLite file is moved aside. Tables of PostgreSQL are dropped: a copy of such a database is its owner's to
make.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from django.db import connections

from raftlog.conf import Settings
from raftlog.runtime import clock
from raftlog.storage.filesystem import RealFileSystem
from raftlog.storage.layout import LOCK

SQLITE_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
_TABLES_AND_VIEWS: Final = """
SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
    format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm')
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype = 'e')"""


def set_aside(settings: Settings, note: Callable[[str], None]) -> None:
    """Folder and database of this host, whose node does not run. `note` is told what went where.

    The folder goes first: a node that finds a database without a log waits to be healed, one that finds a log without a
    database builds it again. Raises DirectoryInUse, OSError, and what the database raises.
    """
    stamp = now_stamp()
    for text in move_folder(settings, stamp):
        note(text)
    if settings.state_machine == "database":
        for text in empty_database(settings.database, stamp):
            note(text)


def now_stamp() -> str:
    """For the names of what is set aside."""
    return datetime.fromtimestamp(clock.wall_microseconds() / 1e6, UTC).strftime("%Y%m%d-%H%M%S")


def move_folder(settings: Settings, stamp: str) -> list[str]:
    """Set DATA_DIR aside, if there is one. Returns what was done, in words. Raises DirectoryInUse, OSError."""
    folder = settings.data_dir.absolute()
    if not folder.exists():
        return []
    lock = RealFileSystem().lock(f"{folder}/{LOCK}")
    try:
        return [_move(folder, stamp)]
    finally:
        lock.release()


def empty_database(alias: str, stamp: str) -> list[str]:
    """What was done, in words."""
    connection = connections[alias]
    connection.close()
    if connection.vendor == "sqlite":
        path = Path(str(connection.settings_dict["NAME"])).absolute()
        return [_move(file, stamp) for suffix in SQLITE_SUFFIXES if (file := Path(f"{path}{suffix}")).exists()]
    return drop_everything(alias)


def drop_everything(alias: str) -> list[str]:
    """Every table and view of a PostgreSQL database's own schema, and raftlog's, in one transaction."""
    with raw_postgresql(alias) as raw, raw.cursor() as cursor:
        found = cursor.execute(_TABLES_AND_VIEWS).fetchall()
        for kind, name in found:
            cursor.execute(f"DROP {kind} IF EXISTS {name} CASCADE")
        cursor.execute("DROP SCHEMA IF EXISTS raftlog CASCADE")
    return [f"{len(found)} tables and views of DATABASES[{alias!r}] were dropped"]


def raw_postgresql(alias: str) -> Any:
    """A psycopg connection of its own, which passes by raftlog's backend; as a context manager it commits."""
    import psycopg
    from django.db.backends.postgresql import base as stock

    parameters = stock.DatabaseWrapper.get_connection_params(connections[alias])
    parameters.pop("isolation", None)
    return psycopg.connect(**{**parameters, "cursor_factory": psycopg.Cursor})


def _move(path: Path, stamp: str) -> str:
    target = path.with_name(f"{path.name}.before-{stamp}")
    os.rename(path, target)
    return f"{path} is now {target}"
