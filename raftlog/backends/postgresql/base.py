"""What Django calls: the stock PostgreSQL backend (psycopg 3), whose transactions go through the log.

ENGINE = "raftlog.backends.postgresql". OPTIONS["isolation"], beside the stock backend's: "serializable" (the
default) or "snapshot".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base as stock
from django.db.backends.postgresql.psycopg_any import register_tzloader
from psycopg import IsolationLevel
from psycopg.pq import Format

from raftlog.backends.log import log_for
from raftlog.backends.postgresql.applying import ApplyPort, Unblocker
from raftlog.backends.postgresql.connection import (
    Connection,
    Cursor,
    NamedServerBindingCursor,
    ServerBindingCursor,
    ServerSideCursor,
)
from raftlog.backends.postgresql.control import Control
from raftlog.backends.postgresql.creation import DatabaseCreation
from raftlog.backends.postgresql.introspection import DatabaseIntrospection
from raftlog.backends.postgresql.operations import DatabaseOperations
from raftlog.backends.postgresql.reading import TableReader
from raftlog.backends.postgresql.schema import DatabaseSchemaEditor
from raftlog.conf import MIB, load_settings

_ABOUT: Final = "SELECT coalesce(current_schema(), 'public'), to_regclass('raftlog_appliedindex') IS NOT NULL"
ISOLATION_LEVELS: Final = ("serializable", "snapshot")


class DatabaseWrapper(stock.DatabaseWrapper):
    """One thread's connection to the replicated database of this host."""

    display_name = "PostgreSQL, replicated by raftlog"
    SchemaEditorClass = DatabaseSchemaEditor
    creation_class = DatabaseCreation
    introspection_class = DatabaseIntrospection
    ops_class = DatabaseOperations

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        isolation = params.pop("isolation", "serializable")
        if isolation not in ISOLATION_LEVELS:
            raise ImproperlyConfigured(
                f"settings.DATABASES[{self.alias!r}]['OPTIONS']['isolation'] is {isolation!r}; "
                f"use one of {', '.join(map(repr, ISOLATION_LEVELS))}."
            )
        for option in ("pool", "isolation_level"):
            if self.settings_dict["OPTIONS"].get(option):
                raise ImproperlyConfigured(
                    f"settings.DATABASES[{self.alias!r}]['OPTIONS'][{option!r}] does not go with raftlog: remove it."
                )
        self._snapshot_isolation = isolation == "snapshot"
        if self._is_replicated:
            is_server_binding = params["cursor_factory"] is stock.ServerBindingCursor
            params["cursor_factory"] = ServerBindingCursor if is_server_binding else Cursor
        return params

    @property
    def _is_replicated(self) -> bool:
        # Django's other connection is to the database `postgres`, to create and drop test databases.
        return bool(self.alias != NO_DB_ALIAS)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        if not self._is_replicated:
            return super().get_new_connection(conn_params)
        self.isolation_level = IsolationLevel.REPEATABLE_READ
        connection = Connection.connect(**conn_params, autocommit=True)
        log = log_for(self.alias)
        with connection.cursor() as cursor:
            schema, has_cluster = cursor.execute(_ABOUT).fetchone() or ("public", False)
            if has_cluster:
                row = cursor.execute("SELECT cluster_id FROM raftlog_appliedindex").fetchone()
                log.connected(row[0] if row else "")
        connection.control = Control(
            connection,
            log,
            max_bytes=_max_transaction_bytes(),
            snapshot_isolation=self._snapshot_isolation,
            schema=schema,
        )
        return connection

    def create_cursor(self, name: str | None = None) -> Any:
        if name is None or not self._is_replicated:
            return super().create_cursor(name)
        factory: Any = NamedServerBindingCursor if self._binds_on_server else ServerSideCursor
        cursor = factory(self.connection, name=name, scrollable=False, withhold=self.connection.autocommit)
        if self.timezone != self.connection.adapters.get_loader(stock.TIMESTAMPTZ_OID, Format.TEXT).timezone:
            register_tzloader(self.timezone, cursor)
        return cursor

    @property
    def _binds_on_server(self) -> bool:
        return self.settings_dict["OPTIONS"].get("server_side_binding") is True

    def ensure_connection(self) -> None:
        # PostgreSQL ends the connection of a transaction that holds up the log.
        if self.connection is not None and self.connection.closed and not self.in_atomic_block:
            self.close()
        super().ensure_connection()

    @contextlib.contextmanager
    def applying(self) -> Iterator[ApplyPort]:
        """Inside, the connection applies the log: what it writes is committed on this host, and captured."""
        self.ensure_connection()
        port = ApplyPort(self.connection.control)
        try:
            yield port
        finally:
            port.leave()

    def apply_port(self) -> ApplyPort:
        """As applying(), for as long as this connection is open: what the state-machine thread uses."""
        self.ensure_connection()
        port = ApplyPort(self.connection.control)
        port.wins()
        return port

    @contextlib.contextmanager
    def unblocking(self, raw: psycopg.Connection[Any]) -> Iterator[None]:
        """Inside, local transactions that keep this connection waiting are cancelled, as they are for apply."""
        unblocker = Unblocker(raw)
        unblocker.start()
        unblocker.begun()
        try:
            yield
        finally:
            unblocker.stop()
            unblocker.join()

    def table_reader(self) -> TableReader:
        """For scans and comparisons: a connection that is used by one thread, and not by this one's."""
        params = stock.DatabaseWrapper.get_connection_params(self)
        params.pop("isolation", None)
        return TableReader({**params, "cursor_factory": psycopg.Cursor})

    def automatic_keys(self, table: str, count: int) -> list[int] | None:
        """Keys for rows that are about to be inserted; None: PostgreSQL gives them."""
        self.ensure_connection()
        with self.wrap_database_errors:
            keys: list[int] | None = self.connection.control.keys.take(table, count)
        return keys


def _max_transaction_bytes() -> int:
    try:
        return load_settings().max_transaction_bytes
    except ImproperlyConfigured:  # the system checks say what is wrong
        return 64 * MIB
