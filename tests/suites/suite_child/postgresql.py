"""The PostgreSQL server that the runs use, and the databases of the nodes in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from suite_child.contents import NODE_LOCAL

DATABASE = os.environ.get("PGDATABASE", "test")
SERVER: dict[str, Any] = {
    "HOST": os.environ.get("PGHOST", "127.0.0.1"),
    "PORT": int(os.environ.get("PGPORT", "5432")),
    "USER": os.environ.get("PGUSER", "postgres"),
    "PASSWORD": os.environ.get("PGPASSWORD", ""),
    # Databases that hold nothing to keep.
    "OPTIONS": {"options": "-c synchronous_commit=off"},
}
_SCHEMA = (
    "SELECT relname, relkind::text, '' FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    """SELECT relname, attnum::text || attname, concat_ws(' ', format_type(atttypid, atttypmod), attnotnull,
        attidentity, attgenerated, attcollation::regcollation, pg_get_expr(adbin, adrelid))
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped""",
    """SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace""",
    "SELECT indexname, tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
)


def connect(database: str) -> Any:
    import psycopg

    where = {"host": SERVER["HOST"], "port": SERVER["PORT"], "user": SERVER["USER"], "password": SERVER["PASSWORD"]}
    return psycopg.connect(**where, dbname=database, autocommit=True)


def make_databases(names: Sequence[str]) -> None:
    with connect(DATABASE) as connection:
        for name in names:
            connection.execute(f'CREATE DATABASE "{name}"')


def drop_databases(names: Sequence[str]) -> None:
    with connect(DATABASE) as connection:
        for name in names:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


class PostgresqlDatabase:
    """A node's database, looked at from outside. What sequences stand at is each node's own affair."""

    def __init__(self, name: str) -> None:
        self._connection = connect(name)
        self._schema: list[tuple[Any, ...]] = []
        self._select = ""

    def applied_index(self) -> int:
        index: int = self._connection.execute("SELECT applied_index FROM raftlog_appliedindex").fetchone()[0]
        return index

    def contents(self) -> dict[str, list[Any]]:
        schema = [row for sql in _SCHEMA for row in sorted(self._connection.execute(sql).fetchall())]
        if schema != self._schema:
            self._schema = schema
            tables = [name for name, kind, definition in schema if kind == "r" and not definition]
            tables = [name for name in tables if name not in NODE_LOCAL]
            each = [f"""SELECT '{name}', found::text FROM ONLY public."{name}" AS found""" for name in tables]
            self._select = " UNION ALL ".join(each)
        found: dict[str, list[Any]] = {"": schema}
        for table, row in sorted(self._connection.execute(self._select).fetchall()):
            found.setdefault(table, []).append(row)
        return found

    def close(self) -> None:
        self._connection.close()
