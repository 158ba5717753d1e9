"""Every statement of one connection, by its kind: read, captured, replayed as it is, refused (rules 11 to 14)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import sql as psycopg_sql

from raftlog.backends import heat
from raftlog.backends.exceptions import NotReplicable, TransactionConflict
from raftlog.backends.postgresql.setup import CANONICAL, NOT_CAPTURING
from raftlog.backends.postgresql.statements import Kind, StatementInfo, describe, replayable, savepoint_name
from raftlog.backends.postgresql.transaction import State, Transaction
from raftlog.backends.retry import pause
from raftlog.replication.write_set import SequenceSet, Statement

MAX_ATTEMPTS: Final = 50  # of a single statement outside a transaction

# Runs the statement that it is given, through the cursor that was asked to.
Execute = Callable[[Any, Any], Any]


class Control(Transaction):
    """Decides, statement by statement, what happens on one raw connection."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # Settings of this session that differ while entries are applied.
        self._own_settings: dict[str, str] = {}
        self._attempt = 0  # of a statement outside a transaction
        self._handlers: dict[Kind, Callable[[str, Any, StatementInfo, Execute], None]] = {
            Kind.READ: self._read,
            Kind.WRITE: self._write,
            Kind.SCHEMA: self._schema,
            Kind.BEGIN: self._begin_statement,
            Kind.COMMIT: self._commit_statement,
            Kind.ROLLBACK: self._rollback_statement,
            Kind.ROLLBACK_TO: self._rollback_to,
            Kind.SAVEPOINT: self._savepoint,
            Kind.SESSION: self._session,
            Kind.MAINTENANCE: self._read,
            Kind.SEVERAL: self._several,
        }

    # Statements

    def execute(self, query: Any, parameters: Any, execute: Execute) -> None:
        sql = self._text(query)
        info = describe(sql)
        if info.refusal and not self.applies:
            raise NotReplicable(info.refusal)
        if self.applies and self.applier.is_entered and self.state is State.OPEN:
            with self.internal():
                self.applier.leave(self._own_settings)
        self._handlers[info.kind](sql, parameters, info, execute)

    def _text(self, query: Any) -> str:
        if isinstance(query, str):
            return query
        if isinstance(query, bytes):
            return query.decode()
        assert isinstance(query, psycopg_sql.Composable)
        return query.as_string(self.connection)

    def _is_outside(self) -> bool:
        """Whether a statement is on its own."""
        return self.state is State.IDLE and not self.manual

    def _read(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        if info.sets:
            self._write(sql, parameters, info, execute)
        elif not self._is_outside():
            self._inside(sql, parameters, info, execute)
        else:
            try:
                with self.internal():
                    execute(sql, parameters)
            except psycopg.Error as error:
                if error.sqlstate != NOT_CAPTURING:
                    raise
                self._write(sql, parameters, info, execute)  # a function that writes

    def _write(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        if self._is_outside():
            self._alone(partial(self._inside, sql, parameters, info, execute), sql)
        else:
            self._inside(sql, parameters, info, execute)

    def _inside(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        self.raise_if_dead()
        if not self.applies:
            if info.kind is Kind.WRITE and not self.capture.has_changes:
                self._before_first_write(info)
            self.ensure_open()
            self.observed.add(info, sql, parameters)
        self.ensure_open()
        self._try(info, partial(execute, sql, parameters))
        if info.restarts:
            self.execute_internally(f"SELECT {self.capture.note(None)}")
        for name in info.sets:
            self._note_sequence(name)

    def _before_first_write(self, info: StatementInfo) -> None:
        was_settled = self.cluster.is_settled
        self.cluster.before_write(attempt=self._attempt, is_exposed=info.has_targets or bool(self.observed))
        if not was_settled and self.cluster.is_held and self.state is State.OPEN:
            self.renew_snapshot()

    def _try(self, info: StatementInfo, call: Callable[[], Any]) -> None:
        try:
            with self.internal():
                call()
        except psycopg.Error as error:
            if self.applies:
                raise
            self._failed(error, info)
        if self.capture.bytes > self.max_bytes and not self.applies:
            self._too_large()

    def _failed(self, error: psycopg.Error, info: StatementInfo) -> None:
        """Raise the right error for a failed statement."""
        if self.capture.bytes > self.max_bytes:
            self._too_large()
        met = self.met_another(error)
        if met is not None:
            self.die(met)
            raise met from error
        if isinstance(error, psycopg.IntegrityError):
            self.observed.failed(info)
            self.collided()
        if error.sqlstate == NOT_CAPTURING:
            raise NotReplicable(str(error.diag.message_primary)) from None
        raise error

    def _too_large(self) -> None:
        death = self.too_large(self.capture.row_count(), self.capture.bytes)
        self.die(death)
        raise death

    def _alone(self, run: Callable[[], None], sql: str) -> None:
        """A statement outside a transaction: in one of its own, run again while it conflicts."""
        is_hot = heat.is_hot(sql)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._attempt = attempt + is_hot
            try:
                run()
                self.commit()
            except TransactionConflict:
                heat.conflicted(sql)
                if attempt == MAX_ATTEMPTS or self.connection.closed:
                    raise
                pause(attempt)
            else:
                return
            finally:
                self.rollback()
                self._attempt = 0

    @contextmanager
    def copying(self, query: Any) -> Iterator[None]:
        """Around a COPY. Outside a transaction it is run once: its data is not ours to send again."""
        sql = self._text(query)
        info = describe(sql)
        if info.refusal:
            raise NotReplicable(info.refusal)
        is_alone = info.kind is Kind.WRITE and self._is_outside()
        if not self._is_outside() or is_alone:
            self.raise_if_dead()
            self.ensure_open()
            self.observed.add(info, sql, None)
        try:
            with self.internal():
                yield
        except psycopg.Error as error:
            if is_alone:
                self.rollback()
            if self.state is not State.OPEN:
                raise
            self._failed(error, info)
        except BaseException:
            if is_alone:
                self.rollback()
            raise
        if is_alone:
            self.commit()

    def _note_sequence(self, name: str) -> None:
        """A statement has set the sequence of a table's automatic keys, named by itself or by its table."""
        with self.internal():
            found = self._cursor.execute(
                "SELECT CASE c.relkind WHEN 'S' THEN d.refobjid ELSE c.oid END FROM pg_class c "
                "LEFT JOIN pg_depend d ON d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 "
                "WHERE c.oid = to_regclass(%s)",
                (name,),
            ).fetchone()
            shape = self.schema.table_by_oid(found[0]) if found and found[0] else None
            if shape is None or not shape.sequence:
                return
            row = self._cursor.execute(f"SELECT last_value, is_called FROM {shape.sequence}".encode()).fetchone()
        assert row is not None
        note = SequenceSet(shape.name, row[0] if row[1] else (row[0] - 1 or None))
        self.execute_internally(f"SELECT {self.capture.note(note)}")

    # Schema

    def _schema(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        run = partial(self._replay, sql, parameters, info, execute)
        if not self._is_outside():
            if not self.applies:
                self.cluster.take(is_fence=True)
            run()
        elif self.cluster.is_settled or self.applies:
            self._alone(run, sql)
        else:
            self.cluster.fence()
            try:
                self._alone(run, sql)
            finally:
                self.cluster.unfence()

    def _replay(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        """Run a statement that goes into the entry as such (rule 13)."""
        self.raise_if_dead()
        self.ensure_open()
        with self.internal():
            text = psycopg.ClientCursor(self.connection).mogrify(sql, parameters) if parameters else sql
            self.capture.before_statement()
        text = replayable(text)
        if info.word in ("DO", "CALL", "SELECT", "WITH"):
            self._try(info, partial(self._muted, text, execute))
        else:
            self._try(info, partial(execute, text, None))
        zone = self.connection.info.parameter_status("TimeZone")
        travels = text if zone == "UTC" else f"SET LOCAL timezone = '{zone}'; {text}"
        note = self.capture.note(Statement(travels, [], False))
        self.execute_internally(f"SELECT raftlog.install(), {note}")

    def _muted(self, sql: str, execute: Execute) -> None:
        """Rows that a replayed statement changes are not captured: it changes them everywhere."""
        ((held,),) = self.execute_internally("SELECT current_setting('raftlog.rows')")
        self.execute_internally("SELECT set_config('raftlog.rows', '-', true)")
        execute(sql, None)
        self._cursor.execute("SELECT set_config('raftlog.rows', %s, true)", (held,))

    def fence(self) -> None:
        """A schema change begins: take the cluster's turn as a fence."""
        if not self.applies:
            self.cluster.fence()

    def unfence(self) -> None:
        self.cluster.unfence()

    # Transaction control

    def set_manual(self, manual: bool) -> None:
        if not manual and self.manual and self.state is not State.IDLE:
            self.commit()  # as psycopg2 did; Django has ended the transaction before
        self.manual = manual

    def _begin_statement(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        self.raise_if_dead()
        if self.state is State.IDLE:
            self.state = State.BEGUN

    def _commit_statement(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        self.commit()

    def _rollback_statement(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        self.rollback()

    def _savepoint(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        if self.state is State.DEAD and info.word == "RELEASE":
            return  # so that the next statement says what happened, not Django that something did
        self.raise_if_dead()
        if not self._is_outside():  # else PostgreSQL says that there is no transaction
            self.ensure_open()
        self._try(info, partial(execute, sql, parameters))
        if info.word == "SAVEPOINT":
            self.savepoints.append(savepoint_name(sql))
        else:
            self._forget_savepoints(sql, keeps_it=False)

    def _forget_savepoints(self, sql: str, *, keeps_it: bool) -> None:
        name = savepoint_name(sql)
        while name in self.savepoints and self.savepoints.pop() != name:
            pass
        if keeps_it:
            self.savepoints.append(name)

    def _rollback_to(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        if self.state is State.DEAD:
            return
        self._try(info, partial(execute, sql, parameters))
        self._forget_savepoints(sql, keeps_it=True)
        self.applier.rolled_back_to_savepoint()
        self.after_rollback_to_savepoint()

    def _session(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        if self._is_outside():
            self._read(sql, parameters, info, execute)
            return
        self._inside(sql, parameters, info, execute)
        if not self.applies:
            self.after_commit(sql, parameters)

    def _several(self, sql: str, parameters: Any, info: StatementInfo, execute: Execute) -> None:
        if parameters:
            with self.internal():
                sql, parameters = psycopg.ClientCursor(self.connection).mogrify(sql, parameters), None
            info = describe(sql)
        for part in info.parts:
            self.execute(part, None, execute)

    # The apply connection

    def applying(self) -> None:
        """From now on this connection applies the log."""
        self.applies = True
        names = ", ".join(f"current_setting('{name}')" for name in CANONICAL)
        (values,) = self.execute_internally(f"SELECT {names}")
        self._own_settings = dict(zip(CANONICAL, values, strict=True))
