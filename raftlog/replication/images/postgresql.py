"""The database part of an image on PostgreSQL: an archive of pg_dump, put back through pg_restore.

Making: pg_dump on the exported snapshot of one read transaction, in which the position is read.

Installing: one transaction. The project's schemas are renamed, what is in the archive is made anew under their names,
and at the end the renamed ones are dropped; so readers see the old content until the commit and wait only for the drop.
The schema `raftlog` (functions, sequences that only this host uses) stays and is in no image.

What belongs to the host and not to the data stays out: owners, privileges, tablespaces, publications.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from django.db import connections
from django.db.backends.postgresql import base as stock
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo
from psycopg.rows import tuple_row

from raftlog.exceptions import ImageError
from raftlog.replication.images.container import Progress
from raftlog.replication.images.contents import Contents, Position
from raftlog.replication.images.header import ImageHeader

POLL: Final = 0.2  # seconds between two looks at how far pg_dump is
COPY_BYTES: Final = 256 << 10
OLD: Final = "raftlog_replaced_"  # how a schema is called that is about to be dropped

_DUMP: Final = (
    *("--format=custom", "--encoding=UTF8", "--exclude-schema=raftlog", "--no-owner", "--no-privileges", "--no-blobs"),
    "--compress=1",  # text shrinks to a third for little time
    # The change feed is this node's.
    *("--exclude-table-data=raftlog_change", "--exclude-table-data=raftlog_changefeed"),
    *("--no-tablespaces", "--no-publications", "--no-subscriptions", "--no-unlogged-table-data", "--no-sync"),
)
_POSITION: Final = (
    "SELECT cluster_id, applied_index, applied_term, schema_version, diverged FROM raftlog_appliedindex WHERE id = 1"
)
_TABLES: Final = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' "
    "AND c.relpersistence = 'p' AND n.nspname NOT IN ('raftlog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%' "
    "AND c.relname NOT IN ('raftlog_change', 'raftlog_changefeed') ORDER BY 1, 2"
)
_SCHEMAS: Final = (
    "SELECT nspname FROM pg_namespace WHERE nspname NOT IN ('raftlog', 'information_schema') "
    "AND nspname NOT LIKE 'pg\\_%' ORDER BY 1"
)
_EXTENSIONS: Final = (
    "SELECT e.extname, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
    "WHERE n.nspname NOT LIKE 'pg\\_%' ORDER BY 1"
)
# pg_restore's own protection against what psql would do with a hostile dump.
_RESTRICT: Final = re.compile(rb"^\\restrict (\w+)$", re.MULTILINE)


def make(alias: str, path: Path, started: Callable[[Position], None], on_progress: Progress) -> Contents:
    """Dump the database into a new file. `started` is told where it stands before anything is copied.

    Raises ImageError, OSError, and what `started` raises.
    """
    with _errors(f"no image of DATABASES[{alias!r}] could be made"), _connected(alias) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        position = _read_position(connection, alias)
        started(position)
        ((snapshot, size),) = connection.execute(
            "SELECT pg_export_snapshot(), pg_database_size(current_database())"
        ).fetchall()
        command = [
            _program("pg_dump"),
            *_DUMP,
            f"--snapshot={snapshot}",
            f"--file={path}",
            f"--dbname={_conninfo(alias)}",
        ]
        with _running(command, connection, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
                done = path.stat().st_size if path.exists() else 0
                on_progress(min(done, size), size)
        rows = {name if schema == "public" else f"{schema}.{name}": _count(connection, schema, name)
                for schema, name in connection.execute(_TABLES).fetchall()}  # fmt: skip
        connection.execute("ROLLBACK")
        return Contents(position, rows, f"PostgreSQL {connection.info.parameter_status('server_version')}")


def install(alias: str, path: Path, header: ImageHeader, on_progress: Progress) -> Position:
    """Replace the content of the database. Returns where it stands then. Raises ImageError, OSError."""
    applying: Any = getattr(connections[alias], "applying", contextlib.nullcontext)
    with applying():  # sees to the schema `raftlog`, with the functions that the triggers of the image call
        pass
    connections[alias].close()
    with _errors(f"the image {path} could not be installed into DATABASES[{alias!r}]"), _connected(alias) as connection:
        unblocking: Any = getattr(connections[alias], "unblocking", contextlib.nullcontext)
        with unblocking(connection):
            connection.execute("BEGIN; SET LOCAL client_min_messages = warning")
            kept, renamed = _put_aside(connection)
            with tempfile.NamedTemporaryFile("w", suffix=".list") as listed:
                listed.write("\n".join(_wanted(connection, path, kept)))
                listed.flush()
                archive = _Archive(connection, path, listed.name)
                archive.run_section("pre-data")
                archive.copy_data(lambda done: on_progress(done, header.database_bytes))
                archive.run_section("post-data")
            connection.execute("RESET search_path")
            position = _read_position(connection, alias)
            if (position.index, position.term) != (header.index, header.term):
                raise ImageError(f"{path} holds entry {position.index}, its header says {header.index}")
            connection.execute("ANALYZE")
            if connection.execute("SELECT to_regclass('raftlog.newest')").fetchone() != (None,):
                connection.execute("SELECT setval('raftlog.newest', %s)", (position.index,))
            for name in renamed:
                connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
            connection.execute("COMMIT")
        on_progress(header.database_bytes, header.database_bytes)
        return position


def make_durable(alias: str) -> int:
    """Returns the applied index that a power cut leaves. Raises ImageError.

    The state machine commits without waiting for the disk; a transaction that does waits for all before it.
    """
    with _errors(f"DATABASES[{alias!r}] could not be made durable"), _connected(alias) as connection:
        position = _read_position(connection, alias)
        connection.execute("SET synchronous_commit = on")
        connection.execute("SELECT pg_logical_emit_message(true, 'raftlog', '')")
        return position.index


# What is there before


def estimated_bytes(alias: str) -> int:
    """The database with its indexes, of which the archive has none, and which it compresses."""
    with _errors(f"DATABASES[{alias!r}] does not say how large it is"), _connected(alias) as connection:
        return int(connection.execute("SELECT pg_database_size(current_database())").fetchall()[0][0])


def _put_aside(connection: psycopg.Connection[Any]) -> tuple[set[str], list[str]]:
    """Give the project's schemas other names. Returns the schemas that are there again already, and the other names."""
    names = [name for (name,) in connection.execute(_SCHEMAS).fetchall()]
    extensions = [(name, schema) for name, schema in connection.execute(_EXTENSIONS).fetchall() if schema in names]
    renamed = []
    for number, name in enumerate(names):
        renamed.append(f"{OLD}{number}")
        connection.execute(
            sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(renamed[-1]))
        )
    kept = {"public", *(schema for _, schema in extensions)} & set(names)
    for name in sorted(kept):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(sql.Identifier(name)))
    for extension, schema in extensions:
        connection.execute(
            sql.SQL("ALTER EXTENSION {} SET SCHEMA {}").format(sql.Identifier(extension), sql.Identifier(schema))
        )
    return kept, renamed


def _wanted(connection: psycopg.Connection[Any], path: Path, kept: set[str]) -> list[str]:
    """The lines of the archive's list of contents, without what is here already."""
    here = {name for (name,) in connection.execute("SELECT extname FROM pg_extension").fetchall()}
    listed = subprocess.run(
        [_program("pg_restore"), "--list", str(path)], check=False, capture_output=True, text=True, encoding="utf-8"
    )
    if listed.returncode:
        raise ImageError(f"pg_restore cannot read {path}: {listed.stderr.strip()}")
    unwanted = {f"EXTENSION - {name}" for name in here} | {f"SCHEMA - {name}" for name in kept}
    unwanted |= {f"COMMENT - EXTENSION {name}" for name in here} | {f"COMMENT - SCHEMA {name}" for name in kept}
    return [line for line in listed.stdout.splitlines() if not _names(line) & unwanted]


def _names(line: str) -> set[str]:
    """`12; 1259 16385 TABLE public name owner` -> what stands after the numbers, without and with the owner."""
    words = line.split(" ", 3)[-1].strip()
    return {words, words.rpartition(" ")[0]}


class _Archive:
    """What pg_restore makes of an archive, put into the transaction that is open on a connection."""

    def __init__(self, connection: psycopg.Connection[Any], path: Path, list_file: str) -> None:
        self._connection = connection
        self._command = [_program("pg_restore"), "--no-owner", "--no-privileges", f"--use-list={list_file}", "--file=-"]
        self._path = str(path)

    def run_section(self, section: str) -> None:
        with self._opened(section) as output:
            statements = output.read()
        if key := _RESTRICT.search(statements):
            statements = re.sub(rb"^\\(un)?restrict " + key[1] + rb"$", b"", statements, flags=re.MULTILINE)
        self._connection.execute(statements)

    def copy_data(self, on_progress: Callable[[int], None]) -> None:
        """`on_progress` is told how many bytes of rows have been copied."""
        done = 0
        with self._opened("data") as output, self._connection.cursor() as cursor:
            statements: list[bytes] = []
            for line in output:
                if not (line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n")):
                    if not line.startswith((b"\\restrict ", b"\\unrestrict ")):
                        statements.append(line)
                    continue
                cursor.execute(b"".join(statements))
                statements.clear()
                with cursor.copy(line.rstrip(b";\n")) as copy:
                    for block in _rows(output):
                        copy.write(block)
                        done += len(block)
                        on_progress(done)
            cursor.execute(b"".join(statements))

    @contextlib.contextmanager
    def _opened(self, section: str) -> Iterator[IO[bytes]]:
        command = [*self._command, f"--section={section}", self._path]
        with _running(command, self._connection, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield process.stdout


def _rows(output: IO[bytes]) -> Iterator[bytes]:
    """The rows of one COPY, as they come, up to the line that ends it."""
    block: list[bytes] = []
    size = 0
    for line in output:
        if line == b"\\.\n":
            break
        block.append(line)
        size += len(line)
        if size >= COPY_BYTES:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


# Connections and programs


@contextlib.contextmanager
def _connected(alias: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of its own, in autocommit, past Django and raftlog."""
    parameters = {**_parameters(alias), "cursor_factory": psycopg.Cursor}
    with psycopg.Connection.connect(**parameters, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        yield connection


def _read_position(connection: psycopg.Connection[Any], alias: str) -> Position:
    try:
        row = connection.execute(_POSITION).fetchone()
    except psycopg.errors.UndefinedTable as error:
        raise ImageError(f"DATABASES[{alias!r}] is no replicated database: {error}") from error
    if row is None:
        raise ImageError(f"the row of raftlog_appliedindex in DATABASES[{alias!r}] is gone")
    return Position(*row)


def _count(connection: psycopg.Connection[Any], schema: str, table: str) -> int:
    ((count,),) = connection.execute(
        sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, table))
    ).fetchall()
    return int(count)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ImageError(
            f"the program {name} is not installed, and images of PostgreSQL are made and read with it: install the "
            "client package of PostgreSQL (Debian: postgresql-client), in the server's version or newer"
        )
    return found


def _conninfo(alias: str) -> str:
    """What the settings say of the connection, but for the password: the programs get that in their environment."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - {"password"}
    return make_conninfo(**{name: value for name, value in _parameters(alias).items() if name in known})


def _parameters(alias: str) -> dict[str, Any]:
    parameters: dict[str, Any] = stock.DatabaseWrapper.get_connection_params(connections[alias])
    for ours in ("isolation", "pool"):
        parameters.pop(ours, None)
    return parameters


@contextlib.contextmanager
def _running(command: list[str], connection: psycopg.Connection[Any], stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that must succeed. It ends with the block."""
    environment = {**os.environ, "PGPASSWORD": connection.info.password or os.environ.get("PGPASSWORD", "")}
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=stdout, stderr=errors, env=environment) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            words = errors.read().decode("utf-8", "replace").strip()
            raise ImageError(f"{Path(command[0]).name} failed ({process.returncode}): {words}")


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        hint = "the role must own the database and what is in it (ALTER DATABASE … OWNER TO …)"
        raise ImageError(f"{what}: {str(error).strip()}; {hint}") from error
    except psycopg.Error as error:
        raise ImageError(f"{what}: {str(error).strip()}") from error
