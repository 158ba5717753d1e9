"""Operations of the stock backend, with compilers of our own and keys reserved for a whole bulk_create()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.backends.sqlite3 import operations as stock


class DatabaseOperations(stock.DatabaseOperations):
    connection: Any
    compiler_module = "raftlog.backends.sqlite3.compiler"

    def bulk_batch_size(self, fields: Sequence[Any], objs: Sequence[Any]) -> int:
        # Called with all objects before the first batch, so before the turn is taken.
        size: int = super().bulk_batch_size(fields, objs)
        if len(objs) > size and hasattr(objs[0], "_meta"):
            meta = objs[0]._meta
            if meta.auto_field is not None and meta.auto_field not in fields:
                self.connection.reserve_automatic_keys(meta.db_table, len(objs))
        return size
