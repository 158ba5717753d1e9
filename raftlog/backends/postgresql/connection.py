"""The raw connection and its cursors: every statement passes by Control, whichever way it comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg
from django.db.backends.postgresql import base as stock
from psycopg.generators import PQGen  # type: ignore[attr-defined]

from raftlog.backends.exceptions import NotReplicable
from raftlog.backends.postgresql.control import Control


class GuardedCursor:
    """Mixed into Django's cursors."""

    connection: Connection

    def execute(self, query: Any, params: Any = None, **keywords: Any) -> Any:
        run = super().execute  # type: ignore[misc]
        if not hasattr(self.connection, "control"):  # not ready yet
            return run(query, params, **keywords)
        self.connection.control.execute(query, params, lambda sql, values: run(sql, values, **keywords))
        return self

    def executemany(self, query: Any, params_seq: Iterable[Any], **keywords: Any) -> None:
        run = super().executemany  # type: ignore[misc]
        rows = list(params_seq)
        self.connection.control.execute(query, None, lambda sql, _: run(sql, rows, **keywords))

    def stream(self, query: Any, params: Any = None, **keywords: Any) -> Iterator[Any]:
        # Row by row while others run would leave the transaction's control to whoever fetches.
        self.execute(query, params)
        yield from self.fetchall()  # type: ignore[attr-defined]

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **keywords: Any) -> Iterator[Any]:
        copy = super().copy  # type: ignore[misc]
        with self.connection.control.copying(statement), copy(statement, params, **keywords) as opened:
            yield opened


class Cursor(GuardedCursor, stock.Cursor):
    """Binds parameters itself, as Django's default."""


class ServerBindingCursor(GuardedCursor, stock.ServerBindingCursor):
    """OPTIONS["server_side_binding"]."""


class NamedCursor(GuardedCursor):
    """Mixed into named cursors: PostgreSQL keeps their rows, for as long as the transaction is open."""

    def execute(self, query: Any, params: Any = None, **keywords: Any) -> Any:
        self.connection.control.named_cursors += 1
        return super().execute(query, params, **keywords)


class ServerSideCursor(NamedCursor, stock.ServerSideCursor):
    """A named cursor, as for iterator()."""


class NamedServerBindingCursor(NamedCursor, psycopg.ServerCursor):
    """A named cursor under OPTIONS["server_side_binding"]."""


class Connection(psycopg.Connection):
    """Its psycopg side is in autocommit for good: Control says BEGIN, and alone decides what an end means."""

    control: Control

    @property
    def autocommit(self) -> bool:
        return not self.control.manual

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self.set_autocommit(value)

    def set_autocommit(self, value: bool) -> None:
        self.control.set_manual(not value)

    def commit(self) -> None:
        self._check_open()
        self.control.commit()

    def rollback(self) -> None:
        self.control.rollback()
        self._check_open()

    def close(self) -> None:
        if hasattr(self, "control"):
            self.control.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            self.control.rollback()
            raise psycopg.OperationalError("the connection is closed")

    def _start_query(self) -> PQGen[None]:
        # Whatever cursor was made for this connection by other means: its statements would go past Control.
        if hasattr(self, "control") and not self.control.is_internal:
            raise NotReplicable("this cursor goes past raftlog; use connection.cursor()")
        return super()._start_query()

    def transaction(self, *arguments: Any, **keywords: Any) -> NoReturn:
        raise NotReplicable("psycopg's own transactions would be committed on this host alone; use atomic()")

    def tpc_begin(self, xid: Any) -> NoReturn:
        raise NotReplicable("two-phase commit: a transaction is committed through the log")
