"""Cursors and the raw connection: every statement passes by Control, whichever way it comes."""

from __future__ import annotations

import sqlite3
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice, tee
from typing import TYPE_CHECKING, Any

from django.db.backends.sqlite3.base import SQLiteCursorWrapper

from raftlog.backends.exceptions import NotReplicable

if TYPE_CHECKING:
    from raftlog.backends.sqlite3.control import Control


class GuardedCursor(sqlite3.Cursor):
    """A cursor whose statements pass by Control. `_rows`: what is left of a result that was read ahead."""

    connection: Connection
    _rows: deque[Any] | None = None

    def execute(self, sql: str, parameters: Any = ()) -> GuardedCursor:
        self.connection.control.execute(self, sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> GuardedCursor:
        self.connection.control.executemany(self, sql, parameters)
        return self

    def executescript(self, script: str) -> GuardedCursor:
        # As the sqlite3 module: an open transaction is committed first, then each statement stands alone.
        self.connection.commit()
        statement = ""
        for part in script.split(";"):
            statement += part + ";"
            if sqlite3.complete_statement(statement):
                if statement.strip(" \t\r\n;"):
                    self.connection.control.execute(self, statement, ())
                statement = ""
        if statement.strip(" \t\r\n;"):
            self.connection.control.execute(self, statement.rstrip(";"), ())
        return self

    def read_ahead(self) -> None:
        """Fetch the rest of the result, so that its statement no longer pins a snapshot."""
        if self._rows is None:
            try:
                self._rows = deque(super().fetchall())
            except sqlite3.ProgrammingError:
                return  # closed: it pins nothing

    def fetchone(self) -> Any:
        if self._rows is None:
            return super().fetchone()
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        size = self.arraysize if size is None else size
        if self._rows is None:
            return super().fetchmany(size)
        taken = list(islice(self._rows, size))
        for _ in taken:
            self._rows.popleft()
        return taken

    def fetchall(self) -> list[Any]:
        if self._rows is None:
            return super().fetchall()
        taken, self._rows = list(self._rows), deque()
        return taken

    def __iter__(self) -> GuardedCursor:
        return self

    def __next__(self) -> Any:
        if self._rows is None:
            return super().__next__()
        if not self._rows:
            raise StopIteration
        return self._rows.popleft()


class Cursor(GuardedCursor, SQLiteCursorWrapper):
    """Django's cursor: the "format" and "pyformat" styles, as the stock backend's."""

    def execute(self, query: str, params: Any = None) -> Cursor:
        if params is None:
            self.connection.control.execute(self, query, ())
            return self
        names = list(params) if isinstance(params, Mapping) else None
        self.connection.control.execute(self, self.convert_query(query, param_names=names), params)
        return self

    def executemany(self, query: str, param_list: Iterable[Any]) -> Cursor:
        peekable, param_list = tee(iter(param_list))
        first = next(peekable, None)
        names = list(first) if first and isinstance(first, Mapping) else None
        self.connection.control.executemany(self, self.convert_query(query, param_names=names), param_list)
        return self


class Connection(sqlite3.Connection):
    """The raw connection. Its own shortcuts make guarded cursors too."""

    control: Control

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        # Cursors of raftlog's own, which nobody closes.
        self._own: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        super().__init__(*arguments, **keywords)

    def cursor(self, factory: Any = GuardedCursor) -> Any:
        cursor = super().cursor(factory)
        if factory is sqlite3.Cursor:
            self._own.add(cursor)
        return cursor

    # The sqlite3 module's own versions of these make their cursor in C, past the cursor() above.
    def execute(self, sql: str, parameters: Any = ()) -> Any:
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> Any:
        return self.cursor().executemany(sql, parameters)

    def commit(self) -> None:
        self.control.commit()

    def rollback(self) -> None:
        self.control.rollback()

    def executescript(self, script: str) -> Any:
        return self.cursor().executescript(script)

    def blobopen(self, *arguments: Any, readonly: bool = False, **keywords: Any) -> Any:
        if not readonly:
            raise NotReplicable("blobopen() writes past every trigger; open it with readonly=True")
        return super().blobopen(*arguments, readonly=True, **keywords)

    def close(self) -> None:
        if hasattr(self, "control"):
            self.control.close()
        # SQLite keeps a closed connection's files open as long as there is a statement of it that is not at its end.
        for cursor in list(self._own):
            cursor.close()
        self._own.clear()
        super().close()
