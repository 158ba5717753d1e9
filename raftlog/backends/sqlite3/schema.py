"""The schema editor: the stock one, whose copies of whole tables travel as statements (rule 13)."""

from __future__ import annotations

import re
from typing import Any, Final

from django.db.backends.sqlite3 import schema as stock

from raftlog.backends.fenced import FencedSchemaEditor

_COPY: Final = re.compile(r'\s*INSERT INTO\s+"?(?:new__|\w)', re.IGNORECASE)
# What could come out differently on another node: then the copied rows themselves travel.
_NOT_ALIKE: Final = re.compile(r"\b(CURRENT_\w+|RANDOM\w*|NOW|DATE|TIME|DATETIME|STRFTIME|JULIANDAY|UUID\w*)\b", re.I)


class DatabaseSchemaEditor(FencedSchemaEditor, stock.DatabaseSchemaEditor):
    """See FencedSchemaEditor; copies of whole tables travel as statements."""

    def __exit__(self, *exc_info: Any) -> None:
        try:
            super().__exit__(*exc_info)
        finally:
            # The stock editor forgets it where its commit fails, and here a commit may always conflict.
            self.connection.enable_constraint_checking()

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
