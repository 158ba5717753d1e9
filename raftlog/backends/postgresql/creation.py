"""Test databases apply inline: a project's own tests run unmodified, and need no node."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import creation as stock

from raftlog.backends.log import InlineLog, use_default_log, use_log


class DatabaseCreation(stock.DatabaseCreation):
    def create_test_db(self, *args: Any, **kwargs: Any) -> str:
        use_default_log(self.connection.alias, InlineLog())
        name: str = super().create_test_db(*args, **kwargs)
        return name

    def setup_worker_connection(self, _worker_id: int) -> None:
        use_log(self.connection.alias, InlineLog())
        super().setup_worker_connection(_worker_id)
