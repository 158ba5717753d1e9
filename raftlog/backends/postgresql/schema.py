"""The schema editor: the stock one, behind a fence (rule 13)."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import schema as stock

from raftlog.backends.postgresql.control import Control


class DatabaseSchemaEditor(stock.DatabaseSchemaEditor):
    """All that is done through it is behind one fence, whether it is one transaction or many (atomic=False)."""

    def __enter__(self) -> DatabaseSchemaEditor:
        if not self.collect_sql:
            self.connection.ensure_connection()
            self._control().fence()
        try:
            super().__enter__()
        except BaseException:
            self._unfence()
            raise
        return self

    def __exit__(self, *exc_info: Any) -> None:
        try:
            super().__exit__(*exc_info)
        finally:
            self._unfence()

    def _unfence(self) -> None:
        if not self.collect_sql and self.connection.connection is not None:
            self._control().unfence()

    def _control(self) -> Control:
        control: Control = self.connection.connection.control
        return control
