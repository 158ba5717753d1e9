"""The database part of an image on SQLite: SQLite's own backup API, both ways (rule 17).

Making: one read transaction on a connection of its own. In WAL mode it holds no writer back; it only keeps the WAL
from being started over as long as it lasts.

Installing: the pages are written into the existing file, in one transaction of SQLite, under the host's turn: whoever
has it open goes on reading what it was reading and then sees the new content; a crash leaves the one or the other.
Pages are copied, not rows, so that the rowids of tables without a primary key, by which nodes know their rows, stay
(VACUUM INTO may change them).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from django.db import connections

from raftlog.exceptions import ImageError
from raftlog.replication.images.container import Progress, make_durable_file
from raftlog.replication.images.contents import Contents, Position
from raftlog.replication.images.header import ImageHeader
from raftlog.replication.shapes import Schema, TableShape, quoted

STEP_PAGES: Final = 1_024  # of one call of the backup API, between which progress is told
BUSY_TIMEOUT_MS: Final = 60_000
LARGE_WAL: Final = 64 << 20  # bytes

_POSITION: Final = (
    "SELECT cluster_id, applied_index, applied_term, schema_version, diverged FROM raftlog_appliedindex WHERE id = 1"
)


def make(alias: str, path: Path, started: Callable[[Position], None], on_progress: Progress) -> Contents:
    """Copy the database into a new file. `started` is told where it stands before anything is copied.

    Raises ImageError, OSError, and what `started` raises.
    """
    name = _name(alias)
    with _errors(f"no image of {name} could be made"), contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(_connect(name, "ro")))
        source.execute("BEGIN")
        position = read_position(source, name)
        started(position)
        # The file is synced as a whole when it is complete, and thrown away if it never is.
        with contextlib.closing(_connect(str(path.absolute()), "rwc")) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            _copy(source, target, on_progress)
        source.execute("ROLLBACK")
        target = stack.enter_context(contextlib.closing(_connect(str(path.absolute()), "rw")))
        # As the source, it says that it has a WAL; but it is a file to be read, by itself.
        target.execute("PRAGMA synchronous = OFF")
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
        for (table,) in target.execute(_NODE_LOCAL).fetchall():
            target.execute(f"DELETE FROM {table}")
        damage = [words for (words,) in target.execute("PRAGMA quick_check(3)")]
        if damage != ["ok"]:
            raise ImageError(f"{name} is damaged, so no image of it is made: {'; '.join(damage)}")
        rows = {table: _count(target, table) for (table,) in target.execute(_TABLES).fetchall()}
    return Contents(position=position, rows=rows, server=f"SQLite {sqlite3.sqlite_version}")


def install(alias: str, path: Path, header: ImageHeader, on_progress: Progress) -> Position:
    """Replace the content of the database, or make it. Returns where it stands then. Raises ImageError, OSError."""
    name = _name(alias)
    host_turn: Any = getattr(connections[alias], "host_turn", contextlib.nullcontext)
    is_file = not name.startswith("file:")
    if is_file and not Path(name).exists():
        Path(name).touch(mode=0o644)
    with _errors(f"the image {path} could not be installed into {name}"), contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(_connect(str(path.absolute()), "ro")))
        stack.enter_context(host_turn())
        target = stack.enter_context(contextlib.closing(_connect(name, "rw")))
        target.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        target.execute("PRAGMA synchronous = FULL")
        _copy(_with_pages_of(target, source, path, stack), target, on_progress)
        if is_file:
            target.execute("PRAGMA journal_mode = WAL").fetchall()
            # Else the WAL keeps the size of the whole image. Who still reads an old state keeps this from ending it.
            target.execute("PRAGMA busy_timeout = 0")
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return read_position(target, name)


def make_durable(alias: str) -> int:
    """Returns the applied index that a power cut leaves. Raises ImageError, OSError."""
    name = _name(alias)
    with _errors(f"{name} could not be made durable"), contextlib.closing(_connect(name, "rw")) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        (index,) = connection.execute("SELECT applied_index FROM raftlog_appliedindex WHERE id = 1").fetchone()
        if name.startswith("file:"):
            return int(index)
        # The WAL first: what is in it is in the database, whether or not a reader keeps it from being copied there.
        wal = Path(f"{name}-wal")
        mode = "PASSIVE"
        if wal.exists():
            make_durable_file(wal)
            # An image that was installed, or a long reader, has left it large; this gives the room back.
            mode = "TRUNCATE" if wal.stat().st_size > LARGE_WAL else "PASSIVE"
        connection.execute("PRAGMA busy_timeout = 0")
        # It syncs the WAL before and the database after. We must not: closing a descriptor of the database's file would
        # drop the locks of all connections of this process (POSIX), and others would then remove the WAL under them.
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        return int(index)


def estimated_bytes(alias: str) -> int:
    """The database file may be smaller than what is in its WAL."""
    name = _name(alias)
    files = [Path(f"{name}{suffix}") for suffix in ("", "-wal")] if not name.startswith("file:") else []
    return sum(file.stat().st_size for file in files if file.exists())


def read_position(connection: sqlite3.Connection, name: str) -> Position:
    """Raises ImageError where raftlog's tables are not there."""
    try:
        row = connection.execute(_POSITION).fetchone()
    except sqlite3.OperationalError as error:
        raise ImageError(f"{name} is no replicated database: {error}") from error
    if row is None:
        raise ImageError(f"{name}: the row of raftlog_appliedindex is gone; what has been applied is not known")
    return Position(*row)


# The change feed is this node's.
_NODE_LOCAL: Final = "SELECT name FROM sqlite_master WHERE name IN ('raftlog_change', 'raftlog_changefeed')"
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()[0])


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, on_progress: Progress) -> None:
    (page_size,) = source.execute("PRAGMA page_size").fetchone()

    def told(status: int, remaining: int, total: int) -> None:
        on_progress((total - remaining) * page_size, total * page_size)

    source.backup(target, pages=STEP_PAGES, progress=told)


def _with_pages_of(
    target: sqlite3.Connection, source: sqlite3.Connection, path: Path, stack: contextlib.ExitStack
) -> sqlite3.Connection:
    """A connection to what `source` has, in pages of the target's size: a file in WAL mode keeps its own for good.

    Raises ImageError.
    """
    (wanted,) = target.execute("PRAGMA page_size").fetchone()
    (mode,) = target.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal" or (wanted,) == source.execute("PRAGMA page_size").fetchone():
        return source
    converted = path.with_name(f"{path.name}.pages")
    stack.callback(converted.unlink, missing_ok=True)
    converted.unlink(missing_ok=True)
    source.execute(f"PRAGMA page_size = {wanted}")
    source.execute("VACUUM INTO ?", (str(converted.absolute()),))
    made = stack.enter_context(contextlib.closing(_connect(str(converted.absolute()), "rw")))
    made.execute("ATTACH ? AS image", (f"file:{quote(str(path.absolute()))}?mode=ro",))
    for table in Schema(made).supported_tables():
        if table.hidden_key and _has_other_rowids(made, table):
            raise ImageError(
                f"the image has pages of another size than this host's file ({wanted} bytes), and SQLite "
                f"{sqlite3.sqlite_version} changes the rowids of {table.name} in the conversion; give that table a "
                "primary key, or stop the processes of this host and have its file made with the image's page size"
            )
    made.execute("DETACH image")
    return made


def _has_other_rowids(connection: sqlite3.Connection, table: TableShape) -> bool:
    name, rowid = quoted(table.name), quoted(table.columns[0])
    sql = f"SELECT 1 FROM (SELECT {rowid} FROM main.{name} EXCEPT SELECT {rowid} FROM image.{name}) LIMIT 1"
    return bool(connection.execute(sql).fetchall())


def _name(alias: str) -> str:
    name = str(connections[alias].settings_dict["NAME"])
    return name if name.startswith("file:") else str(Path(name).absolute())


def _connect(name: str, mode: str) -> sqlite3.Connection:
    uri = name if name.startswith("file:") else f"file:{quote(name)}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ImageError(f"{what}: {error}") from error
