"""What the state machine needs of this backend: its connection applies the log instead of proposing to it.

A transaction entry is applied by TransactionApplier. A command runs through the ORM as ever, and what it changes
is captured, not to be proposed but so that certification and fingerprints know of it.

Thread-safety: the thread of the connection.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any, Final

import psycopg

from raftlog.backends.postgresql.control import Control
from raftlog.exceptions import ApplyStopped
from raftlog.log_fields import log_fields
from raftlog.replication.certify import Unexplained, Verdict
from raftlog.replication.changes import Group
from raftlog.replication.write_set import WriteSet, decode_write_set

logger = logging.getLogger("raftlog.apply")

# Seconds for which apply waits for the locks of a local transaction before that is cancelled.
PATIENCE: Final = 0.1
RECONNECT_AFTER: Final = 1.0  # seconds
# First a running statement is cancelled; what still blocks the next time, or waits for its client, is ended.
_UNBLOCK: Final = """
SELECT a.pid, coalesce(a.application_name, ''), a.state, left(a.query, 200),
    CASE WHEN a.state = 'active' AND NOT a.pid = ANY(%s) THEN pg_cancel_backend(a.pid)
         ELSE pg_terminate_backend(a.pid) END
FROM pg_stat_activity a WHERE a.pid = ANY(pg_blocking_pids(%s)) AND a.backend_type = 'client backend'"""


class ApplyPort:
    """Implements replication.database.TransactionPort over one connection's Control."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._edits: tuple[int, bool] | None = None
        self._decoded: tuple[bytes, WriteSet | None] = (b"", None)
        with control.internal():
            control.applier.make_tables()
            try:
                control._cursor.execute("SET session_replication_role = origin")
            except psycopg.errors.InsufficientPrivilege as error:
                raise ApplyStopped(
                    "this database role may not set session_replication_role, which keeps triggers from firing twice. "
                    "As a superuser: GRANT SET ON PARAMETER session_replication_role TO the role (PostgreSQL 15 or "
                    "newer), or use a role that is a superuser."
                ) from error
        control.applying()

    def wins(self) -> None:
        """From now on local transactions that hold up apply are cancelled."""
        control = self._control
        control.connection.prepare_threshold = 2
        with control.internal():
            control._cursor.execute("SET statement_timeout = 0; SET lock_timeout = 0; SET transaction_timeout = 0"
                                    if control.connection.info.server_version >= 170000
                                    else "SET statement_timeout = 0; SET lock_timeout = 0")  # fmt: skip
        control.unblocker = Unblocker(control.connection)
        control.unblocker.start()

    def leave(self) -> None:
        """The connection is an application's again."""
        self._control.applies = self._control.applier.gathers_changes = False

    def waits_for(self) -> str:
        """Nobody: a local transaction that is in the way is cancelled. Any thread."""
        return ""

    def short_transaction(self) -> None:
        """See TransactionPort: none here."""

    def must_be_alone(self, body: bytes) -> bool:
        """Schema entries are: a batch that fails is tried again from its start."""
        return self._decode(body).is_schema

    def foreign_keys_for(self, body: bytes) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def apply(self, index: int, body: bytes) -> Verdict:
        """Inside the open transaction. Raises psycopg.Error, InvalidEntry."""
        control = self._control
        with control.internal():
            control.ensure_open()
            return control.applier.apply(index, self._decode(body))

    def _decode(self, body: bytes) -> WriteSet:
        known, write_set = self._decoded
        if write_set is None or known is not body:
            write_set = decode_write_set(body)
            self._decoded = (body, write_set)
        return write_set

    def record(self, index: int) -> None:
        """The changes captured since the last record belong to the command of this entry."""
        control = self._control
        control.applier.differences, control.applier.changes = b"", []
        if not control.capture.has_changes:
            return
        with control.internal():
            changes, shapes = control.capture.read()
            if changes:
                control.applier.record_captured(index, changes, shapes)
            control.restart_capture()

    def take_differences(self) -> bytes:
        applier = self._control.applier
        differences, applier.differences = applier.differences, b""
        return differences

    def gather_changes(self) -> None:
        self._control.applier.gathers_changes = True

    def take_changes(self) -> list[Group]:
        applier = self._control.applier
        changes, applier.changes = applier.changes, []
        return changes

    def unexplained(self) -> Unexplained | None:
        return self._control.applier.unexplained

    def was_changed_elsewhere(self) -> bool:
        """What a superuser did with the triggers switched off: the trigger that watches fires all the same."""
        (edits,) = self._control.execute_internally("SELECT last_value, is_called FROM raftlog.edits")
        before, self._edits = self._edits, edits
        return bool(edits != before)

    def void_reserved_keys(self, index: int) -> None:
        control = self._control
        with control.internal():
            control.ensure_open()
            marks = control.applier.marks
            for name in control.applier.schema.table_names():
                marks.set_table(name, marks.table(name)._replace(key_epoch=index))

    def set_applied(self, index: int, changes: bytes = b"") -> None:
        with self._control.internal():
            self._control.ensure_open()
            self._control.applier.set_applied(index, changes)


class Unblocker(threading.Thread):
    """Cancels what blocks apply for longer than PATIENCE: apply goes first, whoever blocks it is told of a conflict.

    Waits on its condition; ends when stop() is called.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(name="raftlog-unblocker", daemon=True)
        self._pid = connection.info.backend_pid
        self._parameters: dict[str, Any] = connection.info.get_parameters() | {"password": connection.info.password}
        self._condition = threading.Condition()
        self._transactions = 0  # begun
        self._is_open = self._is_stopping = False

    def begun(self) -> None:
        with self._condition:
            self._transactions += 1
            self._is_open = True
            self._condition.notify()

    def ended(self) -> None:
        with self._condition:
            self._is_open = False

    def stop(self) -> None:
        with self._condition:
            self._is_stopping = True
            self._condition.notify()

    def run(self) -> None:
        while not self._is_stopping:
            try:
                self._watch()
            except psycopg.OperationalError as error:
                logger.warning(
                    "cannot see what holds up the log, trying again: %s",
                    str(error).strip(),
                    extra=log_fields("database_unusable", reason=str(error).strip()),
                )
                with self._condition:
                    self._condition.wait_for(lambda: self._is_stopping, RECONNECT_AFTER)

    def _watch(self) -> None:
        with psycopg.Connection.connect(**self._parameters, autocommit=True) as connection:
            blocked: list[int] = []
            while self._wait():
                blocked = self._unblock(connection, blocked)

    def _wait(self) -> bool:
        """Until one transaction has been open for PATIENCE; False: stop."""
        with self._condition:
            while not self._is_stopping:
                if not self._is_open:
                    self._condition.wait()
                    continue
                before = self._transactions
                self._condition.wait_for(lambda: self._is_stopping, PATIENCE)
                if self._is_open and self._transactions == before:
                    return not self._is_stopping
            return False

    def _unblock(self, connection: psycopg.Connection[Any], before: list[int]) -> list[int]:
        rows = connection.execute(_UNBLOCK, (before, self._pid)).fetchall()
        for pid, name, state, query, _ in rows:
            logger.warning("process %d of the database (%s, %s) held up the log: cancelled (%s)",
                           pid, name or "no name", state, query,
                           extra=log_fields("apply_held_up", about=f"process {pid}", reason=state))  # fmt: skip
        return [row[0] for row in rows]
