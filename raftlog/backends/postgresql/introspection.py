"""Introspection that leaves out raftlog's own tables."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import introspection as stock

from raftlog.replication.shapes import OWN_TABLES


class DatabaseIntrospection(stock.DatabaseIntrospection):
    def get_table_list(self, cursor: Any) -> list[Any]:
        return [table for table in super().get_table_list(cursor) if table.name not in OWN_TABLES]
