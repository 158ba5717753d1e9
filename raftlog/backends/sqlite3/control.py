"""Every statement of one connection, by its kind: read, captured, replayed as it is, refused (rules 11 to 14)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from django.db.utils import OperationalError

from raftlog.backends import heat
from raftlog.backends.exceptions import NotReplicable, TransactionConflict, TransactionTooLarge
from raftlog.backends.sqlite3.capture import NotCapturing, TooLarge
from raftlog.backends.sqlite3.cursor import GuardedCursor
from raftlog.backends.sqlite3.interlude import needs_cluster_turn, without_turn
from raftlog.backends.sqlite3.statements import Kind, StatementInfo, describe, savepoint_name
from raftlog.backends.sqlite3.transaction import State, Transaction
from raftlog.replication.shapes import UnsupportedTable, quoted
from raftlog.replication.write_set import SequenceSet, Statement

MAX_STATEMENTS: Final = 4096  # texts remembered
MAX_ATTEMPTS: Final = 50  # of a single statement outside a transaction

_execute = sqlite3.Cursor.execute
_executemany = sqlite3.Cursor.executemany


class Control(Transaction):
    """Decides, statement by statement, what happens on one raw connection."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.replays_next = False  # the next write is a schema editor's copy
        self._statements: dict[str, StatementInfo] = {}
        self._handlers: dict[Kind, Callable[[GuardedCursor, str, Any, StatementInfo], None]] = {
            Kind.READ: self._read,
            Kind.OTHER: self._read,
            Kind.WRITE: self._write,
            Kind.SCHEMA: self._schema,
            Kind.BEGIN: self._begin,
            Kind.COMMIT: self._commit_statement,
            Kind.ROLLBACK: self._rollback_statement,
            Kind.SAVEPOINT: self._savepoint,
            Kind.RELEASE: self._release,
            Kind.ROLLBACK_TO: self._rollback_to,
            Kind.VACUUM: self._vacuum,
        }

    # Statements

    def execute(self, cursor: GuardedCursor, sql: str, parameters: Any) -> None:
        info = self._statements.get(sql) or self._describe(sql)
        cursor._rows = None
        if info.kind is Kind.OTHER:  # a PRAGMA among them
            self._enforced = None
        if info.kind is Kind.READ and self.state is State.IDLE and not self.applies:
            self.authorizer.preparing = info
            _execute(cursor, sql, parameters)
            self._pending.add(cursor)
            return
        with self._lock:
            self._handlers[info.kind](cursor, sql, parameters, info)

    def executemany(self, cursor: GuardedCursor, sql: str, rows: Iterable[Any]) -> None:
        info = self._statements.get(sql) or self._describe(sql)
        cursor._rows = None
        rows = list(rows)
        with self._lock:
            if info.kind is not Kind.WRITE:
                self.authorizer.preparing = info
                _executemany(cursor, sql, rows)
                return
            self._write_with(cursor, info, lambda: _executemany(cursor, sql, self._one_by_one(rows)), sql, rows)

    def _one_by_one(self, rows: list[Any]) -> Iterator[Any]:
        # SQLite undoes only the row that failed; what came before it stays captured.
        for row in rows:
            self._undone_to = len(self.capture.sink.changes)
            yield row

    def _describe(self, sql: str) -> StatementInfo:
        try:
            info = describe(sql)
        except ValueError as error:
            raise NotReplicable(str(error)) from None
        if len(self._statements) >= MAX_STATEMENTS:
            self._statements.clear()
        self._statements[sql] = info
        return info

    def _read(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        if self.applies:
            with self._internal():
                _execute(cursor, sql, parameters)
            return
        self._raise_if_dead()
        if self.state is State.BEGUN:
            # A PRAGMA too: inside a transaction `foreign_keys = OFF` must do nothing, as Django expects.
            self._open_snapshot()
        self.authorizer.preparing = info
        self.authorizer.refusal = ""
        try:
            _execute(cursor, sql, parameters)
        except sqlite3.Error as error:
            self._fail(error, info)
        self._pending.add(cursor)
        if self.state is not State.IDLE and info.kind is Kind.READ:
            self.observed.add(info, parameters)

    def _write(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        if self.replays_next:
            self.replayed(cursor, sql, parameters, info)
            return
        call: Callable[[], Any] = partial(_execute, cursor, sql, parameters)
        if info.sets_sequence:
            call = partial(self._with_sequence, call)
        self._write_with(cursor, info, call, sql, [parameters])

    def _write_with(
        self, cursor: GuardedCursor, info: StatementInfo, call: Callable[[], Any], sql: str, runs: Sequence[Any]
    ) -> None:
        """`call` runs the statement once for each parameters of `runs`."""
        self._raise_if_dead()
        if self.state is State.IDLE and not self.manual:
            self._alone(lambda: self._captured_and_observed(cursor, info, call, sql, runs), sql)
            return
        if self.state is not State.WRITING:
            self._start_writing(is_exposed=not info.adds_rows_only)
        elif not info.adds_rows_only and needs_cluster_turn(self):
            without_turn(self, self.cluster.take)
        self._captured_and_observed(cursor, info, call, sql, runs)

    def _captured_and_observed(
        self, cursor: GuardedCursor, info: StatementInfo, call: Callable[[], Any], sql: str, runs: Sequence[Any]
    ) -> None:
        self._captured(cursor, info, call)
        if not self.applies:
            for parameters in runs:
                self.observed.add(info, parameters)

    def _alone(self, run: Callable[[], None], sql: str) -> None:
        """A writing statement outside a transaction: in one of its own, run again while it conflicts."""
        is_hot = heat.is_hot(sql)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.state = State.BEGUN
            try:
                self._start_writing(attempt=attempt + is_hot)
                run()
            except BaseException:
                self.rollback()
                raise
            try:
                self.commit()
            except TransactionConflict:
                heat.conflicted(sql)
                if attempt == MAX_ATTEMPTS:
                    raise
            else:
                return

    def _captured(self, cursor: GuardedCursor, info: StatementInfo, call: Callable[[], Any]) -> None:
        """Run a writing statement; take back from capture what SQLite takes back."""
        authorizer = self.authorizer
        self._undone_to = len(self.capture.sink.changes)
        while True:
            authorizer.preparing, authorizer.may_write = info, True
            authorizer.captured = self.capture.installed
            authorizer.refusal = ""
            authorizer.missing = set()
            cursor._rows = None  # of a run before this one, which met a conflict
            try:
                call()
                if cursor.description is not None:  # RETURNING: the rows are fetched before the rollback
                    cursor.read_ahead()
                return
            except sqlite3.Error as error:
                self.capture.sink.cut(self._undone_to)
                if not authorizer.missing:
                    self._fail(error, info)
            finally:
                authorizer.may_write = False
            self._install(authorizer.missing)

    def _install(self, tables: set[str]) -> None:
        with self._internal():
            for table in sorted(tables):
                try:
                    self.capture.install(table)
                except UnsupportedTable as error:
                    raise NotReplicable(str(error)) from None

    def _with_sequence(self, call: Callable[[], Any]) -> None:
        before = self._sequences()
        call()
        after = self._sequences()
        for table in sorted(before.keys() | after.keys()):
            if before.get(table) != after.get(table):
                self.capture.sink.changes.append(SequenceSet(table, after.get(table)))

    def _sequences(self) -> dict[str, int]:
        with self._internal():
            return dict(self._cursor.execute("SELECT name, seq FROM main.sqlite_sequence").fetchall())

    def _schema(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        self.replayed(cursor, sql, parameters, info)

    def replayed(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        """Run a statement that goes into the entry as such: DDL, and the copies of a schema editor (rule 13)."""
        self._raise_if_dead()
        if self.applies and self.state is State.IDLE:
            self._read(cursor, sql, parameters, info)  # the state machine's own preparations
            return
        run = partial(self._replay, cursor, sql, parameters, info)
        if self.state is State.IDLE and not self.manual:
            self._fenced_alone(run, sql)
            return
        if self.state is not State.WRITING:
            if not self.applies:
                self.cluster.take(is_fence=True)
            self._start_writing()
        run()

    def _fenced_alone(self, run: Callable[[], None], sql: str) -> None:
        if self.cluster.is_settled:
            self._alone(run, sql)
            return
        self.cluster.fence()
        try:
            self._alone(run, sql)
        finally:
            self.cluster.unfence()

    def _replay(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        authorizer = self.authorizer
        with self._internal():
            (legacy,) = self._cursor.execute("PRAGMA legacy_alter_table").fetchone()
            self.capture.drop()
        authorizer.preparing, authorizer.may_write, authorizer.is_replayed = info, True, True
        authorizer.refusal = ""
        self.capture.sink.enabled, self.capture.sink.muted = False, True
        try:
            _execute(cursor, sql, parameters)
        except sqlite3.Error as error:
            self._fail(error, info)
        finally:
            authorizer.may_write = authorizer.is_replayed = False
            self.capture.sink.muted = False
            self.capture.sink.enabled = self.state is State.WRITING
        self.capture.sink.changes.append(Statement(sql, list(parameters), bool(legacy)))

    @contextmanager
    def reading_to_write(self) -> Iterator[None]:
        """What is read inside will be written: the turn is taken before, and it is certified at any isolation."""
        with self._lock:
            if self.state is State.BEGUN and not self.applies:
                self.cluster.before_write(attempt=0, is_exposed=True)
            observed = self.observed
            observed.locks = True
        try:
            yield
        finally:
            observed.locks = False

    def fence(self) -> None:
        """A schema change begins: take the cluster's turn as a fence, where this host's turn is not held."""
        with self._lock:
            if self.state in (State.IDLE, State.BEGUN) and not self.applies:
                self.cluster.fence()

    def unfence(self) -> None:
        with self._lock:
            self.cluster.unfence()

    # Transaction control

    def _begin(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        if self.state is not State.IDLE:
            raise sqlite3.OperationalError("cannot start a transaction within a transaction")
        if not self.applies:
            self.cluster.at_begin()
        self.state = State.BEGUN
        if self.applies:
            self._start_writing()

    def _commit_statement(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        if self.state is State.IDLE:
            raise sqlite3.OperationalError("cannot commit - no transaction is active")
        self.commit()

    def _rollback_statement(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        if self.state is State.IDLE:
            raise sqlite3.OperationalError("cannot rollback - no transaction is active")
        self.rollback()

    def _savepoint(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        self._raise_if_dead()
        if self.state is State.IDLE:
            if not self.manual:
                raise NotReplicable(
                    "a savepoint outside of a transaction would commit on this host alone; use atomic()"
                )
            self.state = State.BEGUN
        name = savepoint_name(sql)
        if self.state is not State.BEGUN:
            self._internally(f"SAVEPOINT {quoted(name)}")
        self._savepoints.append((name, len(self.capture.sink.changes)))

    def _release(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        self._raise_if_dead()
        position, name, _ = self._find_savepoint(sql)
        if self.state is not State.BEGUN:
            self._internally(f"RELEASE {quoted(name)}")
        del self._savepoints[position:]

    def _rollback_to(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        self._raise_if_dead()
        position, name, length = self._find_savepoint(sql)
        if self.state is not State.BEGUN:
            self._internally(f"ROLLBACK TO {quoted(name)}")
        del self._savepoints[position + 1 :]
        if self.state is State.WRITING:
            if not self.applies:
                self.observed.undone(self.capture.sink.changes[length:], self.capture.sink.shapes)
            self.capture.sink.cut(length)
            with self._internal():
                self.capture.sync()

    def _find_savepoint(self, sql: str) -> tuple[int, str, int]:
        name = savepoint_name(sql)
        for position in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[position][0] == name:
                return position, name, self._savepoints[position][1]
        raise sqlite3.OperationalError(f"no such savepoint: {name}")

    def _vacuum(self, cursor: GuardedCursor, sql: str, parameters: Any, info: StatementInfo) -> None:
        raise NotReplicable("VACUUM gives new rowids to tables without a primary key on this host alone")

    # Failures

    def _fail(self, error: sqlite3.Error, info: StatementInfo) -> None:
        """Raise the right error for a failed statement."""
        if self.state is State.WRITING and not self.connection.in_transaction:
            # SQLite rolls back by itself after an interrupt, a full disk, an I/O error.
            if self._is_expiring:
                self._die(self._expiry())
                raise self._expiry() from error
            self._die(OperationalError(f"the transaction was rolled back by SQLite: {error}"))
            raise error
        if self._is_expiring and error.sqlite_errorname == "SQLITE_INTERRUPT":
            raise self._expiry() from error
        cause, self.capture.sink.error = self.capture.sink.error, None
        if isinstance(cause, TooLarge):
            raise TransactionTooLarge(str(cause)) from None
        if isinstance(cause, NotCapturing):
            raise NotReplicable(str(cause)) from None
        if self.authorizer.refusal:
            raise NotReplicable(self.authorizer.refusal) from None
        if isinstance(error, sqlite3.IntegrityError):
            self.observed.failed(info)
            self.keys.collided()
        raise error
