"""What both vendors' schema editors do: all that is done through one is behind one fence (rule 13)."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class FencedSchemaEditor(BaseDatabaseSchemaEditor):
    """To stand before the stock editor. The fence is up whether the work is one transaction or many (atomic=False)."""

    def __enter__(self) -> Any:
        if not self.collect_sql:
            self.connection.ensure_connection()
            self._control().fence()
        try:
            return super().__enter__()
        except BaseException:
            self._unfence()
            raise

    def __exit__(self, *exc_info: Any) -> None:
        try:
            super().__exit__(*exc_info)
        finally:
            self._unfence()

    def _unfence(self) -> None:
        if not self.collect_sql and self.connection.connection is not None:
            self._control().unfence()

    def _control(self) -> Any:
        """The control of this connection, which knows the fence."""
        return self.connection.connection.control
