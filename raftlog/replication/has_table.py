"""Whether a database has a table. No models here: what a backend imports must not make one while it is imported."""

from __future__ import annotations

from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

_HAS_TABLE: Final = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = %s",
    "postgresql": "SELECT to_regclass(%s) IS NOT NULL",
}


def has_table(connection: BaseDatabaseWrapper, name: str) -> bool:
    """Whether the connection sees one by that name, whoever made it."""
    with connection.cursor() as cursor:
        cursor.execute(_HAS_TABLE[connection.vendor], [name])
        return bool(cursor.fetchone()[0])
