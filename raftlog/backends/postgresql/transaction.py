"""One connection's transaction: from BEGIN to the log (section 7.2; rules 9 and 10).

Transactions run side by side, each in PostgreSQL's REPEATABLE READ: its first statement reads the index of the last
applied entry in the snapshot in which all others run. At commit it is rolled back and proposed. No connection of an
application ever commits a row.

States: IDLE; BEGUN (begun for Django, PostgreSQL has not been told); OPEN; DEAD (rolled back because it met what
another transaction did: every statement raises that, until the outermost block ends).

Thread-safety: used by one thread at a time, as Django's connections are.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import OperationalError, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from raftlog.backends.cluster_turns import TransactionTurn
from raftlog.backends.exceptions import TransactionConflict, TransactionTooLarge, UniqueConflict, conflict
from raftlog.backends.log import TransactionLog
from raftlog.backends.postgresql.applier import TransactionApplier
from raftlog.backends.postgresql.captured import ROWS, START, Capture
from raftlog.backends.postgresql.keys import TransactionKeys
from raftlog.backends.postgresql.observed import LOCKS, Lock, Observed
from raftlog.backends.postgresql.setup import ADVISORY_KEY
from raftlog.exceptions import NotProposed
from raftlog.replication import effects
from raftlog.replication.certify import Refused, VerdictKind, check_unchanged_since
from raftlog.replication.write_set import FORMAT, SNAPSHOT, StepBuilder, WriteSet, encode_write_set

if TYPE_CHECKING:
    from raftlog.backends.postgresql.applying import Unblocker
    from raftlog.backends.postgresql.connection import Connection

_BEGIN: Final = (
    f"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT {START}, applied, last_schema, last_key_epoch, tableoid "
    "FROM raftlog_positions"
)
ATTEMPTS: Final = 10  # of finding out where the database stands
_BEGIN_APPLYING: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT {START}"


class State(enum.Enum):
    IDLE = "idle"
    BEGUN = "begun"
    OPEN = "open"
    DEAD = "dead"


class Transaction:
    """What is open on one raw connection, and how it ends."""

    def __init__(
        self, connection: Connection, log: TransactionLog, *, max_bytes: int, snapshot_isolation: bool, schema: str
    ) -> None:
        self.connection = connection
        self.log = log
        self.cluster = TransactionTurn(log)
        self.max_bytes = max_bytes
        self.snapshot_isolation = snapshot_isolation
        self.manual = False  # Django has begun a transaction, or set_autocommit(False)
        # The log is applied through this connection: its transactions are committed, not proposed.
        self.applies = False
        self.state = State.IDLE
        self.base = 0
        self._cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection, row_factory=tuple_row)
        self._internal_depth = 0
        self.applier = TransactionApplier(self._cursor, schema)
        self.schema = self.applier.schema
        self.capture = Capture(self._cursor, self.schema)
        self.observed = Observed(self.schema)
        self.keys = TransactionKeys(self)
        self._positions_table = 0  # OID; 0: not seen yet
        self._key_epoch = -1  # newest, of all tables, as last seen
        self._epochs: dict[str, int] = {}
        self._has_collided = False
        self.savepoints: list[str] = []  # names as in SQL, outermost first
        self.named_cursors = 0  # opened in this transaction: they end with it
        # Statements about this session, which the rollback before the proposal would undo.
        self._afterwards: list[tuple[str, Any]] = []
        self._death: Exception | None = None
        self.unblocker: Unblocker | None = None

    # raftlog's own statements

    @contextmanager
    def internal(self) -> Iterator[None]:
        """Inside, statements are raftlog's own, or have passed by Control."""
        self._internal_depth += 1
        try:
            yield
        finally:
            self._internal_depth -= 1

    @property
    def is_internal(self) -> bool:
        return self._internal_depth > 0

    def execute_internally(self, sql: str) -> Any:
        """The rows of the last of several statements that gives any."""
        with self.internal():
            cursor = self._cursor.execute(sql.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else None

    # Begin

    def ensure_open(self) -> None:
        if self.state is not State.OPEN:
            self.begin()

    def begin(self) -> None:
        if self.applies:
            if self.unblocker is not None:
                self.unblocker.begun()
            self.execute_internally(_BEGIN_APPLYING)
            self.applier.begun()
        else:
            if self.manual or self.state is State.BEGUN:
                self.cluster.at_begin()
            ((_, _, self.base, version, key_epoch, table),) = self._begin_in_snapshot()
            self._see_database(table)
            self.schema.refresh_to(version)
            self._see_key_epoch(key_epoch)
        self.state = State.OPEN

    def _begin_in_snapshot(self) -> Any:
        try:
            for _ in range(ATTEMPTS):
                if rows := self.execute_internally(_BEGIN):
                    return rows
                # It waited for the end of an install, and from its older snapshot the new tables look empty.
                self.execute_internally("ROLLBACK")
            raise OperationalError("the row of raftlog_positions is gone: restore the database from a peer or a backup")
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            self.execute_internally("ROLLBACK")
            with self.internal():
                self.applier.make_tables()
            return self.execute_internally(_BEGIN)

    def _see_database(self, table: int) -> None:
        """`table`: OID of raftlog_positions. An image that is installed makes all tables anew (rule 17).

        Then OIDs name other tables; and where it is of another cluster, blocks of keys are void.
        """
        before, self._positions_table = self._positions_table, table
        if before in (0, table):
            return
        self.schema.forget()
        with self.internal():
            row = self._cursor.execute("SELECT cluster_id FROM raftlog_appliedindex").fetchone()
        self.log.connected(row[0] if row else "")

    def _see_key_epoch(self, newest: int) -> None:
        if newest != self._key_epoch:
            self._key_epoch = newest
            self._epochs.clear()

    def key_epoch(self, table: str) -> int:
        """Index of the last entry that set back the counter of the table's automatic keys, as this transaction sees."""
        with self.internal():
            if self.state is not State.OPEN:
                row = self._cursor.execute("SELECT last_key_epoch, tableoid FROM raftlog_positions").fetchone()
                assert row is not None
                self._see_database(row[1])
                self._see_key_epoch(row[0])
            epoch = self._epochs.get(table)
            if epoch is None:
                self.applier.marks.begin()
                epoch = self._epochs[table] = self.applier.marks.table(table).key_epoch
        return epoch

    def next_keys(self, table: str, count: int) -> list[int]:
        with self.internal():
            self.ensure_open()
            keys, sequence = self.applier.next_keys(table, count)
            self.applier.move_sequence(sequence, keys[-1])
        return keys

    # End

    def commit(self) -> None:
        """End the transaction: through the log if it changed anything. Raises what the log says against it."""
        if self.state is State.DEAD:
            death = self._death
            self._reset()
            if death is not None:
                raise death
        elif self.state is not State.OPEN:
            self._reset()
        elif self.connection.pgconn.transaction_status == TransactionStatus.INERROR:
            self._abandon()  # as PostgreSQL does: COMMIT of a failed transaction rolls it back
        elif self.applies:
            try:
                self.execute_internally("COMMIT")
            finally:
                self._reset()
        else:
            self._commit_changes()

    def _commit_changes(self) -> None:
        afterwards = self._afterwards
        try:
            write_set = self._gather() if self.capture.has_changes else None
            body = b"" if write_set is None else self._encoded(write_set)
        except psycopg.Error as error:
            met = self.met_another(error)
            self._abandon()
            raise met or error from error
        except BaseException:
            self._abandon()
            raise
        self._roll_back_locally()
        try:
            if write_set is not None:
                self._propose(write_set, body)
        finally:
            self._reset()
        with self.internal():
            for sql, parameters in afterwards:
                psycopg.ClientCursor(self.connection).execute(sql, parameters)

    def _propose(self, write_set: WriteSet, body: bytes) -> None:
        try:
            with self.internal(), self._host_turn():
                verdict = self.log.commit(write_set, body, self.applier)
        except NotProposed:
            raise
        except BaseException:
            self.keys.used()
            effects.happened()  # the outcome is unknown
            raise
        if verdict.kind is VerdictKind.APPLIED:
            self.keys.used()
            effects.happened()
            return
        if verdict.kind is not VerdictKind.INTEGRITY:
            effects.conflicted()
        if verdict.kind is VerdictKind.UNIQUE_CONFLICT:
            self.keys.collided()
        raise conflict(verdict)

    @contextmanager
    def _host_turn(self) -> Iterator[None]:
        """Who applies inline is alone in the database."""
        if not self.log.holds_turn:
            yield
            return
        self.execute_internally(f"SELECT pg_advisory_lock({ADVISORY_KEY})")
        try:
            yield
        finally:
            self.execute_internally(f"SELECT pg_advisory_unlock({ADVISORY_KEY})")

    def _gather(self) -> WriteSet | None:
        """The write set of the open transaction, None if it changed nothing.

        Raises psycopg.IntegrityError for what it violates by itself.
        """
        with self.internal():
            cursor = self._cursor.execute(f"{LOCKS}; SET CONSTRAINTS ALL IMMEDIATE; {ROWS}".encode())
            locks = [Lock(*row) for row in cursor.fetchall()]
            cursor.nextset()
            cursor.nextset()
            changes, shapes = self.capture.parse(*cursor.fetchall()[0])
            builder = StepBuilder(shapes)
            builder.add_all(changes)
            if not builder.changes_anything:
                return None
            reads = self.observed.settle(locks, targets_only=self.snapshot_isolation)
        read_rows = [[builder.table_of(shape), key] for (_, key), shape in reads.rows.items()]
        flags = SNAPSHOT if self.snapshot_isolation else 0
        return WriteSet(FORMAT, self.base, flags, builder.tables, builder.steps, sorted(reads.tables), read_rows)

    def _encoded(self, write_set: WriteSet) -> bytes:
        body = encode_write_set(write_set)
        if len(body) > self.max_bytes:
            raise self.too_large(write_set.row_count, len(body))
        return body

    def too_large(self, rows: int, size: int) -> TransactionTooLarge:
        fits = max(1, rows * self.max_bytes // size // 2)
        return TransactionTooLarge(
            f"the transaction changes {rows} rows, {size} bytes, over RAFTLOG['MAX_TRANSACTION_BYTES'] = "
            f"{self.max_bytes}. Split it into transactions of about {fits} rows (batch_size={fits})."
        )

    def rollback(self) -> None:
        self._abandon()

    def _roll_back_locally(self) -> None:
        if self.state is State.OPEN:
            self.execute_internally("ROLLBACK")
            self.state = State.BEGUN

    def _abandon(self) -> None:
        try:
            if not self.connection.closed:
                self._roll_back_locally()
        finally:
            self._reset()

    def _reset(self) -> None:
        if self.unblocker is not None:
            self.unblocker.ended()
        self.state = State.IDLE
        self._death = None
        self._has_collided = False
        self.savepoints = []
        self.named_cursors = 0
        self._afterwards = []
        if self.capture.has_statements:
            self.schema.forget()
        self.capture.clear()
        self.keys.unused()
        self.observed = Observed(self.schema)
        self.cluster.release()

    def restart_capture(self) -> None:
        self.execute_internally(f"SELECT {START}")
        self.capture.clear()

    def close(self) -> None:
        if self.unblocker is not None:
            self.unblocker.stop()

    def renew_snapshot(self) -> None:
        """Nothing was written yet, and the cluster's turn is held: go on from the state that it found (rule 9).

        Raises TransactionConflict where what was read has changed since.
        """
        ((newest,),) = self.execute_internally("SELECT last_value FROM raftlog.newest")
        if newest <= self.base or self.named_cursors:
            return
        base = self.base
        with self.internal():
            locks = [Lock(*row) for row in self._cursor.execute(LOCKS.encode()).fetchall()]
            reads = self.observed.settle(locks, targets_only=False)
        self.execute_internally("ROLLBACK")
        self.begin()
        for name in self.savepoints:
            self.execute_internally(f"SAVEPOINT {name}")
        rows = [(table, (key,)) for table, key in reads.rows]
        try:
            with self.internal():
                self.applier.marks.begin()
                check_unchanged_since(self.applier.marks, base, sorted(reads.tables), rows, ())  # type: ignore[arg-type]
        except Refused as refused:
            self.die(TransactionConflict(f"{refused}, and now it wants to write; nothing was changed"))
            self.raise_if_dead()
        self.observed.keep(reads)

    # What it meets

    def met_another(self, error: psycopg.Error) -> TransactionConflict | None:
        """The conflict that an error is, if another transaction is its cause."""
        state = error.sqlstate
        if state in ("40001", "40P01"):
            return TransactionConflict(f"another transaction was in its way ({error.diag.message_primary}); "
                                       "nothing was changed")  # fmt: skip
        if state == "57P01" or (state == "57014" and "timeout" not in str(error)):
            return TransactionConflict(
                "it held up the log, whose entries go first, and was cancelled; nothing was changed"
            )
        return None

    def die(self, death: Exception) -> None:
        """Roll back now; every statement raises `death` until the outermost block ends."""
        self._abandon()
        effects.conflicted()
        self.state = State.DEAD
        self._death = death

    def raise_if_dead(self) -> None:
        if self.state is State.DEAD and self._death is not None:
            raise type(self._death)(*self._death.args)

    def after_rollback_to_savepoint(self) -> None:
        """Go on only if the unique value that a statement met can be seen from this snapshot."""
        self.observed.rolled_back_to_savepoint()
        if self.capture.has_statements:
            self.schema.forget()
        if self._has_collided and not self.applies:
            self._has_collided = False
            ((newest,),) = self.execute_internally("SELECT last_value FROM raftlog.newest")
            if newest > self.base:
                self.die(UniqueConflict("a concurrent transaction was first with a key or unique value; "
                                        "nothing was changed"))  # fmt: skip

    def collided(self) -> None:
        self._has_collided = True
        self.keys.collided()

    def after_commit(self, sql: str, parameters: Any) -> None:
        self._afterwards.append((sql, parameters))
