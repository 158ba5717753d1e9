"""The connection through which the log is applied: one for each thread that applies, and everything peculiar to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import Error as DjangoDatabaseError

from raftlog.replication.failures import is_infrastructure
from raftlog.replication.foreign_keys import Guard, make_guard
from raftlog.replication.tables import Applied, read_applied


class ApplyConnection:
    """`connections[alias]` of the thread that made it: Django's connections belong to threads."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.connection: BaseDatabaseWrapper = connections[alias]
        self.guard: Guard = make_guard(self.connection)
        self.driver_error: type[Exception] = self.connection.Database.Error  # type: ignore[attr-defined]
        self.is_open = False
        # The first infrastructure failure of the current entry, whether or not its command let it through.
        self.failure: BaseException | None = None

    def open(self) -> Applied:
        """Connect (anew), and say where the database stands. Raises what the driver raises, in Django's classes."""
        self.close()
        self.connection.ensure_connection()
        if self.connection.vendor == "sqlite":
            # Take the write lock at BEGIN: waiting for it later, under a read lock, can fail at once.
            self.connection.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
        with self.connection.wrap_database_errors:
            self.guard.connected()
        applied = read_applied(self.connection)
        self.is_open = True
        return applied

    def close(self) -> None:
        self.is_open = False
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction of apply. Raises foreign_keys.SchemaChanged before anything was done."""
        self.failure = None
        with self.connection.execute_wrapper(self._watch), transaction.atomic(using=self.alias, durable=True):
            with self.connection.wrap_database_errors:
                self.guard.begin()
            yield

    def entry_savepoint(self) -> Any:
        return transaction.atomic(using=self.alias)

    def check_entry(self, *, alone: bool) -> None:
        """After the function of an entry returned: did it really go through? `alone`: in a transaction of its own.

        Raises its infrastructure failure even where the command swallowed it (the next node may have none),
        TransactionManagementError where it swallowed a failed statement, IntegrityError, Suspect.
        """
        if self.failure is not None:
            raise self.failure
        if self.connection.needs_rollback:
            raise transaction.TransactionManagementError(
                "the command caught a database error outside an atomic() of its own, so its changes are not whole"
            )
        self.guard.check_entry(alone=alone)

    def before_commit(self) -> None:
        with self.connection.wrap_database_errors:
            self.guard.before_commit()

    def take_hooks(self) -> list[Callable[[], Any]]:
        """The on_commit hooks of this transaction. Apply runs them after the commit: none can look like its failure."""
        hooks = [hook[1] for hook in self.connection.run_on_commit]
        self.connection.run_on_commit = []
        return hooks

    def _watch(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        try:
            return execute(sql, params, many, context)
        except DjangoDatabaseError as error:
            if self.failure is None and is_infrastructure(error, self.driver_error):
                self.failure = error
            raise
