"""What Django calls: the stock SQLite backend, whose transactions go through the log.

ENGINE = "raftlog.backends.sqlite3". OPTIONS that it adds to the stock backend's: "isolation"
("serializable", the default, or "snapshot") and "turn_limit" (seconds that one transaction may hold the
host's write turn; default 30, None: as long as it likes).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.sqlite3 import base as stock

from raftlog.backends.log import TransactionLog, log_for
from raftlog.backends.sqlite3.applying import ApplyPort
from raftlog.backends.sqlite3.control import Control
from raftlog.backends.sqlite3.creation import DatabaseCreation
from raftlog.backends.sqlite3.cursor import Connection, Cursor
from raftlog.backends.sqlite3.file import DatabaseFile, begin_filling, end_filling, is_complete, opened
from raftlog.backends.sqlite3.introspection import DatabaseIntrospection
from raftlog.backends.sqlite3.operations import DatabaseOperations
from raftlog.backends.sqlite3.reading import TableReader
from raftlog.backends.sqlite3.schema import DatabaseSchemaEditor
from raftlog.backends.sqlite3.transaction import State
from raftlog.backends.sqlite3.turn import Turn
from raftlog.conf import MIB, load_settings

DEFAULT_TURN_LIMIT: Final = 30.0  # seconds
ISOLATION_LEVELS: Final = ("serializable", "snapshot")


class DatabaseWrapper(stock.DatabaseWrapper):
    """One thread's connection to the replicated database of this host."""

    display_name = "SQLite, replicated by raftlog"
    SchemaEditorClass = DatabaseSchemaEditor
    creation_class = DatabaseCreation
    introspection_class = DatabaseIntrospection
    ops_class = DatabaseOperations
    # Whether a missing file is made: only where the node opens its database.
    _makes_file = False

    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        params.pop("isolation_level", None)
        isolation = params.pop("isolation", "serializable")
        if isolation not in ISOLATION_LEVELS:
            raise ImproperlyConfigured(
                f"settings.DATABASES[{self.alias!r}]['OPTIONS']['isolation'] is {isolation!r}; "
                f"use one of {', '.join(map(repr, ISOLATION_LEVELS))}."
            )
        self._turn_limit = params.pop("turn_limit", DEFAULT_TURN_LIMIT)
        self._snapshot_isolation = isolation == "snapshot"
        params["isolation_level"] = None
        params["factory"] = self._make_connection
        return params

    def _make_connection(self, *args: Any, **kwargs: Any) -> Connection:
        name = str(self.settings_dict["NAME"])
        in_memory = self.is_in_memory_db()
        log = log_for(self.alias)
        connection, file = self._open_file(name, log, args, kwargs)
        if not in_memory:
            sqlite_only_cursor(connection).execute("PRAGMA journal_mode = WAL")
        connection.control = Control(
            connection,
            self._make_turn(f":memory:{id(connection)}"),
            log,
            file,
            max_bytes=_max_transaction_bytes(),
            turn_limit=None if log.holds_turn and self._turn_limit == DEFAULT_TURN_LIMIT else self._turn_limit,
            snapshot_isolation=self._snapshot_isolation,
        )
        connection.control.notice_database()
        return connection

    def _make_turn(self, unshared: str) -> Turn:
        """`unshared`: what to call a database that no other connection can see."""
        name = str(self.settings_dict["NAME"])
        if self.is_in_memory_db():
            return Turn(unshared if name == ":memory:" else name, in_memory=True)
        return Turn(str(Path(name).absolute()), in_memory=False)

    @contextlib.contextmanager
    def host_turn(self) -> Iterator[None]:
        """Inside, nobody on this host writes; the node goes before writers that wait. Not with this connection open."""
        turn = self._make_turn(":memory:")
        turn.goes_first = True
        try:
            turn.take()
            yield
        finally:
            turn.close()

    def _open_file(self, name: str, log: TransactionLog, args: Any, kwargs: Any) -> tuple[Connection, DatabaseFile]:
        """The stock backend makes a missing file; of a replicated one that is for the node alone (rule 17)."""
        if self.is_in_memory_db() or name.startswith("file:"):
            return Connection(*args, **kwargs), DatabaseFile("")
        path = Path(name).absolute()
        if self._makes_file or log.holds_turn:
            if not path.exists():
                path.touch(mode=0o644)
        elif not is_complete(str(path)):
            log.make_database(str(path))
        return opened(str(path), lambda uri: Connection(*args, **{**kwargs, "database": uri}))

    def _cursor(self, name: str | None = None) -> Any:
        if self.connection is not None and self.connection.control.has_lost_its_file():
            self.close()  # and open what stands there now
        return super()._cursor(name)  # type: ignore[misc]

    def create_cursor(self, name: str | None = None) -> Cursor:
        cursor: Cursor = self.connection.cursor(factory=Cursor)
        return cursor

    @contextlib.contextmanager
    def applying(self) -> Iterator[ApplyPort]:
        """Inside, the connection applies the log: what it writes is committed on this host, and captured."""
        self._makes_file = True
        self.ensure_connection()
        port = ApplyPort(self.connection.control)
        try:
            yield port
        finally:
            port.leave()

    def apply_port(self) -> ApplyPort:
        """As applying(), for as long as this connection is open: what the state-machine thread uses."""
        self._makes_file = True
        self.ensure_connection()
        return ApplyPort(self.connection.control)

    def begin_filling(self) -> None:
        """The node is about to open its database: a file that it makes is for no application until end_filling()."""
        begin_filling(self._path)

    def end_filling(self) -> None:
        end_filling(self._path)

    @property
    def _path(self) -> str:
        return str(Path(str(self.settings_dict["NAME"])).absolute())

    def table_reader(self) -> TableReader:
        """Reads the replicated tables on a connection of its own, which may belong to another thread."""
        return TableReader(Path(str(self.settings_dict["NAME"])))

    def fetch_open_results(self) -> None:
        """Fetch what is left of every open result, which pins an old snapshot: the next query reads the newest."""
        if self.connection is not None:
            self.connection.control.read_ahead()

    @contextlib.contextmanager
    def reading_to_write(self) -> Iterator[None]:
        """Around a select_for_update() query."""
        self.ensure_connection()
        with self.connection.control.reading_to_write():
            yield

    def automatic_keys(self, table: str, count: int) -> list[int] | None:
        """Keys for rows that are about to be inserted; None: SQLite gives them."""
        self.ensure_connection()
        keys: list[int] | None = self.connection.control.keys.take(table, count)
        return keys

    def reserve_automatic_keys(self, table: str, count: int) -> None:
        """See to it that so many keys can be taken, if that is still possible in this transaction."""
        self.ensure_connection()
        self.connection.control.keys.reserve(table, count)

    def _set_autocommit(self, autocommit: bool) -> None:
        control: Control = self.connection.control
        with self.wrap_database_errors:
            if autocommit and control.manual and control.state is not State.IDLE:
                control.commit()  # as the sqlite3 module does when isolation_level becomes None
        control.manual = not autocommit


def sqlite_only_cursor(connection: Connection) -> Any:
    """A cursor that passes by no Control, for what is done before there is one."""
    return connection.cursor(sqlite3.Cursor)


def _max_transaction_bytes() -> int:
    try:
        return load_settings().max_transaction_bytes
    except ImproperlyConfigured:  # the system checks say what is wrong
        return 64 * MIB
