"""Django's compilers; that of INSERT names automatic keys itself, where they come from blocks (rule 12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.backends.postgresql.compiler import (
    SQLAggregateCompiler,
    SQLCompiler,
    SQLDeleteCompiler,
    SQLUpdateCompiler,
)
from django.db.backends.postgresql.compiler import SQLInsertCompiler as StockInsertCompiler

__all__ = ["SQLAggregateCompiler", "SQLCompiler", "SQLDeleteCompiler", "SQLInsertCompiler", "SQLUpdateCompiler"]


class SQLInsertCompiler(StockInsertCompiler):
    """An INSERT without a value for the automatic key gets a column for it, and keys of this process's block."""

    connection: Any
    _keys: Iterator[int] | None = None

    def as_sql(self) -> Any:  # type: ignore[override]  # as Django's own
        query = self.query
        field = query.get_meta().auto_field
        if field is None or field in query.fields or query.raw:
            return super().as_sql()
        keys = self.connection.automatic_keys(query.get_meta().db_table, len(query.objs))
        if keys is None:
            return super().as_sql()
        fields, self._keys = query.fields, iter(keys)
        query.fields = [field, *fields]
        try:
            return super().as_sql()
        finally:
            query.fields, self._keys = fields, None

    def pre_save_val(self, field: Any, obj: Any) -> Any:
        if self._keys is not None and field is self.query.get_meta().auto_field:
            return next(self._keys)
        return super().pre_save_val(field, obj)
