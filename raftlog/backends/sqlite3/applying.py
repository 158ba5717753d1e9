"""What the state machine needs of this backend: its connection applies the log instead of proposing to it.

A transaction entry is applied by TransactionApplier. A command runs through the ORM as ever, and what it changes
is captured, not to be proposed but so that certification and fingerprints know of it.

Thread-safety: the thread of the connection.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from raftlog.backends.sqlite3.control import Control
from raftlog.backends.sqlite3.cursor import Connection
from raftlog.replication.certify import LastChanged, Unexplained, Verdict, VerdictKind
from raftlog.replication.changes import Group
from raftlog.replication.shapes import quoted
from raftlog.replication.staged_marks import StagedMarks
from raftlog.replication.write_set import WriteSet, decode_write_set

NO_LIMIT: Final = 1 << 62


@lru_cache(maxsize=64)
def _with_question_marks(sql: str) -> str:
    return sql.replace("%s", "?")


class OwnCursor:
    """For raftlog's own tables: statements with Django's placeholders, past Django and past Control."""

    def __init__(self, connection: Connection) -> None:
        self._cursor = connection.cursor(sqlite3.Cursor)
        self._cursor.row_factory = None
        self.fetchone = self._cursor.fetchone
        self.fetchall = self._cursor.fetchall

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor.execute(_with_question_marks(sql), parameters)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(_with_question_marks(sql), rows)

    @property
    def rowcount(self) -> int:
        count: int = self._cursor.rowcount
        return count


class ApplyPort:
    """Implements replication.database.TransactionPort over one connection's Control."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._data_version = -1
        control.applies = control.authorizer.applies = control.turn.goes_first = True
        # The limit is checked where a transaction is made; here it would let a local setting decide a verdict.
        self._max_bytes, control.capture.sink.max_bytes = control.capture.sink.max_bytes, NO_LIMIT
        self._decoded: tuple[bytes, WriteSet] | None = None
        self._own = OwnCursor(control.connection)
        with control._internal():
            if not control._tables_exist():
                control.turn.take()
                try:
                    control.applier.make_tables()
                finally:
                    control.turn.give_back()
            control.applier.marks = StagedMarks(control.connection)

    def leave(self) -> None:
        """The connection is an application's again."""
        control = self._control
        control.applies = control.authorizer.applies = control.turn.goes_first = False
        control.applier.gathers_changes = False
        self._control.capture.sink.max_bytes = self._max_bytes
        with self._control._internal():
            self._control.applier.marks = LastChanged(self._control.connection)

    def waits_for(self) -> str:
        """Who keeps this connection from applying, in words; "" if nobody does. Any thread."""
        return self._control.turn.waits_for()

    @contextlib.contextmanager
    def short_transaction(self) -> Iterator[OwnCursor]:
        """See TransactionPort. It is committed where the block ends, and rolled back where that raises."""
        control = self._control
        control.read_ahead()
        control.file.check()
        control.turn.take()
        try:
            with control._internal(), self._not_capturing():
                control._cursor.execute("BEGIN IMMEDIATE")
                try:
                    control.applier.marks.begin()
                    with control.applier.schema.fixed():
                        yield self._own
                    control._cursor.execute("COMMIT /* raftlog */")
                except BaseException:
                    if control.connection.in_transaction:
                        control._cursor.execute("ROLLBACK")
                    raise
        finally:
            control.turn.give_back()

    def must_be_alone(self, body: bytes) -> bool:
        """Whether this entry needs a transaction of its own, because it needs another PRAGMA foreign_keys."""
        control = self._control
        with control._internal():
            return not control.applier.enforcement(self._decode(body), 1)[1]

    def _decode(self, body: bytes) -> WriteSet:
        """Each entry is asked for more than once in a row. Raises InvalidEntry."""
        if self._decoded is None or self._decoded[0] is not body:
            self._decoded = (body, decode_write_set(body))
        return self._decoded[1]

    @contextlib.contextmanager
    def foreign_keys_for(self, body: bytes) -> Iterator[None]:
        """Around the transaction of an entry that is alone: SQLite's own foreign keys as the entry needs them."""
        control = self._control
        with control._internal():
            wanted = control.applier.enforcement(self._decode(body), 1)[0]
            control._cursor.execute(f"PRAGMA foreign_keys = {wanted}")
        try:
            yield
        finally:
            with control._internal():
                control._cursor.execute("PRAGMA foreign_keys = ON")

    def apply(self, index: int, body: bytes) -> Verdict:
        """Inside the open transaction. Raises sqlite3.Error, InvalidEntry."""
        control = self._control
        write_set = self._decode(body)
        with control._internal(), self._not_capturing():
            if not write_set.is_schema:
                return control.applier.apply(index, write_set)
            control._cursor.execute("SAVEPOINT raftlog_triggers")
            self._drop_triggers()
            verdict = control.applier.apply(index, write_set)
            if verdict.kind is not VerdictKind.APPLIED:
                control._cursor.execute("ROLLBACK TO raftlog_triggers")
                control.capture.sync()
            control._cursor.execute("RELEASE raftlog_triggers")
            return verdict

    @contextlib.contextmanager
    def _not_capturing(self) -> Iterator[None]:
        capture = self._control.capture
        capture.sink.enabled, capture.sink.muted = False, True
        try:
            yield
        finally:
            capture.sink.enabled, capture.sink.muted = True, False

    def _drop_triggers(self) -> None:
        """Also those that watch foreign keys: a schema statement fails where a trigger names what it takes away."""
        control = self._control
        control.capture.drop()
        sql = "SELECT name FROM sqlite_temp_master WHERE type = 'trigger'"
        for (name,) in control._cursor.execute(sql).fetchall():
            control._cursor.execute(f"DROP TRIGGER temp.{quoted(name)}")

    def record(self, index: int) -> None:
        """The changes captured since the last record belong to the command of this entry."""
        control = self._control
        control.applier.differences, control.applier.changes = b"", []
        if control.capture.sink.changes:
            with control._internal():
                control.applier.record_captured(index, control.capture.sink.changes, control.capture.sink.shapes)
            control.capture.sink.cut(0)

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
        """Raises DatabaseReplaced where the path names another file by now, or none."""
        self._control.file.check()
        with self._control._internal():
            (version,) = self._control._cursor.execute("PRAGMA data_version").fetchone()
        before, self._data_version = self._data_version, version
        return bool(version != before)

    def void_reserved_keys(self, index: int) -> None:
        applier = self._control.applier
        with self._control._internal():
            applier.schema.refresh()
            for name in applier.schema.table_names():
                applier.marks.set_table(name, applier.marks.table(name)._replace(key_epoch=index))

    def set_applied(self, index: int, changes: bytes = b"") -> None:
        with self._control._internal():
            self._control.applier.marks.set_applied(index)
            if changes:
                self._control._cursor.execute("INSERT INTO main.raftlog_change VALUES (?, ?)", (index, changes))
