"""Commits inside a test's own transaction: where Django releases a savepoint, production would commit.

Failures that a test asked for are raised there, before anything is kept; and what was written counts as final, so that
retry_on_conflict and the middleware decide as they would in production.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.db import connections

from raftlog.backends.exceptions import TransactionConflict
from raftlog.exceptions import OutcomeUnknown
from raftlog.replication import effects
from raftlog.replication.context import is_applying
from raftlog.replication.open_transaction import is_inside_transaction

_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "WITH")


class CommitWatch:
    """Entered around a test. It watches the calling thread's connection of `alias`."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.failures: list[Exception] = []
        self._has_written = False
        self._failed = ""  # the savepoint that was to be released when a failure struck

    def __enter__(self) -> CommitWatch:
        self._connection = connection = connections[self.alias]
        connection.commit, connection.savepoint_commit = self._commit, self._savepoint_commit  # type: ignore[method-assign]
        connection.execute_wrappers.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        del self._connection.commit, self._connection.savepoint_commit
        self._connection.execute_wrappers.remove(self._note)

    def fail_next(self, failure: Exception) -> None:
        """Raises TypeError for a conflict on a backend that knows none."""
        if isinstance(failure, TransactionConflict) and not hasattr(connections[self.alias], "apply_port"):
            engine = connections[self.alias].settings_dict["ENGINE"]
            raise TypeError(
                f"DATABASES[{self.alias!r}] has the ENGINE {engine}, whose transactions meet no "
                f"{type(failure).__name__}"
            )
        self.failures.append(failure)

    def _commit(self) -> None:
        if not is_applying():
            self._fail_if_told()
        type(self._connection).commit(self._connection)

    def _savepoint_commit(self, sid: str) -> None:
        connection = self._connection
        is_outermost = not is_applying() and not is_inside_transaction(connection) and sid != self._failed
        if is_outermost:
            self._failed = sid  # should it fail: Django rolls back to the savepoint, and releases it once more
            self._fail_if_told()
            self._failed = ""
        type(connection).savepoint_commit(connection, sid)
        if is_outermost and self._has_written:
            self._has_written = False
            effects.happened()

    def _fail_if_told(self) -> None:
        if not self.failures:
            return
        failure = self.failures.pop(0)
        self._has_written = False
        if isinstance(failure, TransactionConflict):
            effects.conflicted()
        elif isinstance(failure, OutcomeUnknown):
            effects.happened()
        raise failure

    def _note(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
        if sql.lstrip()[:7].upper().startswith(_WRITES):
            self._has_written = True
        return execute(sql, params, many, context)
