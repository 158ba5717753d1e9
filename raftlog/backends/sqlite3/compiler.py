"""Django's compilers: an INSERT names its automatic keys itself, a SELECT FOR UPDATE is noted (rules 10 and 12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.db import IntegrityError
from django.db.models.sql.compiler import SQLAggregateCompiler, SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.compiler import SQLCompiler as StockCompiler
from django.db.models.sql.compiler import SQLInsertCompiler as StockInsertCompiler

__all__ = ["SQLAggregateCompiler", "SQLCompiler", "SQLDeleteCompiler", "SQLInsertCompiler", "SQLUpdateCompiler"]


MAX_ATTEMPTS: Final = 3


class SQLCompiler(StockCompiler):
    """A select_for_update() query, of which SQLite knows nothing, says what its transaction is going to write."""

    connection: Any

    def execute_sql(self, *arguments: Any, **keywords: Any) -> Any:  # as Django's own
        if not self.query.select_for_update:
            return super().execute_sql(*arguments, **keywords)
        with self.connection.reading_to_write():
            return super().execute_sql(*arguments, **keywords)


class SQLInsertCompiler(StockInsertCompiler):
    """An INSERT without a value for the automatic key gets a column for it, and keys of this process's block."""

    connection: Any
    _keys: Iterator[int] | None = None
    _took_keys = False

    def execute_sql(self, returning_fields: Any = None) -> Any:  # type: ignore[override]  # as Django's own
        for _ in range(MAX_ATTEMPTS):
            try:
                return super().execute_sql(returning_fields)
            except IntegrityError as error:
                # Somebody named a key of ours by hand. SQLite would have gone past it, so must we.
                if not self._took_keys or not self._is_about_key(error):
                    raise
        return super().execute_sql(returning_fields)

    def _is_about_key(self, error: IntegrityError) -> bool:
        meta = self.query.get_meta()
        field: Any = meta.auto_field
        return str(error) == f"UNIQUE constraint failed: {meta.db_table}.{field.column}"

    def as_sql(self) -> Any:  # type: ignore[override]  # as Django's own
        query = self.query
        self._took_keys = False
        field = query.get_meta().auto_field
        if field is None or field in query.fields or query.raw:
            return super().as_sql()
        table = query.get_meta().db_table
        keys = self.connection.automatic_keys(table, len(query.objs))
        if keys is None:
            return super().as_sql()
        fields, self._keys, self._took_keys = query.fields, iter(keys), True
        query.fields = [field, *fields]
        try:
            return super().as_sql()
        finally:
            query.fields, self._keys = fields, None

    def pre_save_val(self, field: Any, obj: Any) -> Any:
        if self._keys is not None and field is self.query.get_meta().auto_field:
            return next(self._keys)
        return super().pre_save_val(field, obj)
