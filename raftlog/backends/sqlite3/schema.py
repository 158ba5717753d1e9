"""The schema editor: the stock one, whose copies of whole tables travel as statements (rule 13)."""

from __future__ import annotations

import re
from typing import Any, Final

from django.db.backends.sqlite3 import schema as stock

from raftlog.backends.sqlite3.control import Control

_COPY: Final = re.compile(r'\s*INSERT INTO\s+"?(?:new__|\w)', re.IGNORECASE)
# What could come out differently on another node: then the copied rows themselves travel.
_NOT_ALIKE: Final = re.compile(r"\b(CURRENT_\w+|RANDOM\w*|NOW|DATE|TIME|DATETIME|STRFTIME|JULIANDAY|UUID\w*)\b", re.I)


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
            # The stock editor forgets it where its commit fails, and here a commit may always conflict.
            self.connection.enable_constraint_checking()
            self._unfence()

    def _unfence(self) -> None:
        if not self.collect_sql and self.connection.connection is not None:
            self._control().unfence()

    def _control(self) -> Control:
        control: Control = self.connection.connection.control
        return control

    def execute(self, sql: Any, params: Any = ()) -> None:
        text = str(sql)
        if self.collect_sql or not _COPY.match(text) or _NOT_ALIKE.search(text):
            super().execute(sql, params)
            return
        self.connection.ensure_connection()
        control = self._control()
        control.replays_next = True
        try:
            super().execute(sql, params)
        finally:
            control.replays_next = False
