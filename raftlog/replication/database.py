"""The connection through which the log is applied: one for each thread that applies, and everything peculiar to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import Error as DjangoDatabaseError

from raftlog.consensus.entries import HEADER_BYTES, WRITE_SET_KINDS
from raftlog.exceptions import ApplyStopped, DatabaseReplaced, InvalidEntry
from raftlog.replication.certify import Unexplained, Verdict
from raftlog.replication.changes import Group
from raftlog.replication.failures import is_infrastructure
from raftlog.replication.foreign_keys import Guard, Suspect, make_guard
from raftlog.replication.tables import Applied, has_tables, read_applied


class TransactionPort(Protocol):
    """What a raftlog backend's `apply_port()` gives: transaction entries, and what commands change, on its connection.

    Called by the thread of the connection.
    """

    def waits_for(self) -> str:
        """Who keeps this connection from applying, in words; "" if nobody does. Any thread."""
        ...

    def short_transaction(self) -> contextlib.AbstractContextManager[Any] | None:
        """A transaction for entries that run no code of the project and change no schema; None: there is none such.

        Gives a cursor for raftlog's own tables, which takes Django's placeholders.
        """
        ...

    def must_be_alone(self, body: bytes) -> bool: ...

    def foreign_keys_for(self, body: bytes) -> contextlib.AbstractContextManager[None]: ...

    def apply(self, index: int, body: bytes) -> Verdict: ...

    def record(self, index: int) -> None: ...

    def set_applied(self, index: int, changes: bytes = b"") -> None:
        """The last thing in a transaction. `changes`: its row of the change feed; b"": it has none."""
        ...

    def void_reserved_keys(self, index: int) -> None:
        """Entry `index` begins another cluster: no process may use keys that it reserved before."""
        ...

    def take_differences(self) -> bytes:
        """What the entry applied or recorded last did to the sums of its tables: running_hash.encode_differences().

        b"" where that was asked before, or where the entry changed nothing.
        """
        ...

    def gather_changes(self) -> None:
        """From now on take_changes() has something to give."""
        ...

    def take_changes(self) -> list[Group]:
        """What the entry applied or recorded last changed, for the change feed; [] where that was asked before."""
        ...

    def unexplained(self) -> Unexplained | None:
        """Why the entry applied last got its verdict, where that was not for an entry since its base: this database,
        or that on which the transaction ran, is not what the log made it."""
        ...

    def was_changed_elsewhere(self) -> bool:
        """Whether another connection has committed since the last call. The first call may say yes."""
        ...


class ApplyConnection:
    """`connections[alias]` of the thread that made it: Django's connections belong to threads."""

    def __init__(self, alias: str, *, gathers_changes: bool = False) -> None:
        self.alias = alias
        self._gathers_changes = gathers_changes
        self.connection: BaseDatabaseWrapper = connections[alias]
        self.guard: Guard = make_guard(self.connection)
        self.driver_error: type[Exception] = self.connection.Database.Error  # type: ignore[attr-defined]
        self.is_open = False
        # None: an ENGINE of Django's own, whose transactions nobody captures.
        self.transactions: TransactionPort | None = None
        self._is_short = False
        # The first infrastructure failure of the current entry, whether or not its command let it through.
        self.failure: BaseException | None = None

    def open(self) -> Applied:
        """Connect (anew), and say where the database stands. Raises what the driver raises, in Django's classes.

        Raises DatabaseReplaced where raftlog's tables are gone.
        """
        self.close()
        apply_port = getattr(self.connection, "apply_port", None)
        self.transactions = apply_port() if apply_port else None
        if self.transactions is not None and self._gathers_changes:
            self.transactions.gather_changes()
        self.connection.ensure_connection()
        if self.connection.vendor == "sqlite":
            # Take the write lock at BEGIN: waiting for it later, under a read lock, can fail at once.
            self.connection.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
        with self.connection.wrap_database_errors:
            self.guard.connected()
        if not has_tables(self.connection):
            raise DatabaseReplaced(f"DATABASES[{self.alias!r}] has lost the tables of raftlog: it is another one now")
        applied = read_applied(self.connection)
        self.is_open = True
        return applied

    def close(self) -> None:
        self.is_open = False
        self.connection.close()

    def waits_for(self) -> str:
        transactions = self.transactions
        return transactions.waits_for() if transactions is not None else ""

    @contextlib.contextmanager
    def transaction(self, alone: bytes, *, is_short: bool = False) -> Iterator[Any]:
        """One transaction of apply, with a cursor for raftlog's own tables. `alone`: the payload of its one entry.

        `is_short`: none of its entries runs code of the project or changes the schema, so none needs what Django keeps
        of a transaction (savepoints, hooks, wrappers), which costs more than applying a row.
        Raises foreign_keys.SchemaChanged before anything was done.
        """
        self.failure = None
        short = self.transactions.short_transaction() if is_short and self.transactions is not None else None
        self._is_short = short is not None
        if short is not None:
            with self.connection.wrap_database_errors, short as cursor:
                self.guard.begin()  # what it watches must fit the schema, whichever entries come
                yield cursor
            return
        around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.transactions is not None and alone and alone[0] in WRITE_SET_KINDS:
            around = self.transactions.foreign_keys_for(alone[HEADER_BYTES:])
        watched = self.connection.execute_wrapper(self._watch)
        with around, watched, transaction.atomic(using=self.alias, durable=True):
            with self.connection.wrap_database_errors:
                self.guard.begin()
            with self.connection.cursor() as cursor:
                yield cursor

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

    def apply_transaction(self, index: int, body: bytes, *, alone: bool) -> Verdict:
        """A transaction or schema entry. Raises Suspect where it must be alone, ApplyStopped."""
        if self.transactions is None:
            raise ApplyStopped(
                f"entry {index} is a transaction, which DATABASES[{self.alias!r}] cannot apply: set its ENGINE to "
                f"raftlog.backends.{'sqlite3' if self.connection.vendor == 'sqlite' else self.connection.vendor}"
            )
        try:
            with self.connection.wrap_database_errors:
                if not alone and self.transactions.must_be_alone(body):
                    raise Suspect
                verdict = self.transactions.apply(index, body)
        except InvalidEntry as error:
            raise ApplyStopped(f"entry {index}: {error}") from error
        self.guard.pardon()  # its references have been checked by key
        return verdict

    def record(self, index: int) -> None:
        """What was changed since the last call was changed by the command of this entry."""
        if self.transactions is not None:
            with self.connection.wrap_database_errors:
                self.transactions.record(index)

    def void_reserved_keys(self, index: int) -> None:
        if self.transactions is not None:
            with self.connection.wrap_database_errors:
                self.transactions.void_reserved_keys(index)

    def take_differences(self) -> bytes:
        return self.transactions.take_differences() if self.transactions is not None else b""

    def take_changes(self) -> list[Group]:
        return self.transactions.take_changes() if self.transactions is not None else []

    def unexplained(self) -> Unexplained | None:
        return self.transactions.unexplained() if self.transactions is not None else None

    def was_changed_elsewhere(self) -> bool:
        """Raises what the driver raises, in Django's classes."""
        if self.transactions is None:
            return False
        with self.connection.wrap_database_errors:
            return self.transactions.was_changed_elsewhere()

    def moved_to(self, index: int, changes: bytes) -> None:
        if self.transactions is not None:
            with self.connection.wrap_database_errors:
                self.transactions.set_applied(index, changes)

    def before_commit(self) -> None:
        if self._is_short:
            return
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
