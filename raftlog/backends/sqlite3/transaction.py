"""One connection's transaction: from BEGIN over the host's turn to the log (section 7.2; rules 9 and 14).

States: IDLE; BEGUN (BEGIN was said, SQLite has not been told); READING (a snapshot is open); WRITING (the
turn is held, changes are captured); DEAD (rolled back by raftlog or SQLite: every statement raises what
happened, until the outermost block ends).

Thread-safety: used by one thread at a time, as Django's connections are, and by the watchdog through
`_expire`. `_lock` is held during every statement of a transaction that holds the turn.
"""

from __future__ import annotations

import enum
import sqlite3
import threading
import weakref

from raftlog.backends.cluster_turns import TransactionTurn
from raftlog.backends.exceptions import TransactionConflict, TurnExpired, conflict
from raftlog.backends.log import TransactionLog
from raftlog.backends.sqlite3.authorizer import Authorizer
from raftlog.backends.sqlite3.capture import Capture
from raftlog.backends.sqlite3.cursor import Connection, GuardedCursor
from raftlog.backends.sqlite3.file import DatabaseFile, cluster_id_of
from raftlog.backends.sqlite3.gather import encoded, gather
from raftlog.backends.sqlite3.keys import TransactionKeys
from raftlog.backends.sqlite3.observed import Observed
from raftlog.backends.sqlite3.turn import Turn, watchdog
from raftlog.exceptions import NotProposed
from raftlog.replication import effects
from raftlog.replication.certify import Refused, Verdict, VerdictKind, check_unchanged_since
from raftlog.replication.shapes import UnsupportedTable, can_switch_triggers_off, quoted
from raftlog.replication.transactions import TransactionApplier
from raftlog.replication.write_set import WriteSet


class State(enum.Enum):
    IDLE = "idle"
    BEGUN = "begun"
    READING = "reading"
    WRITING = "writing"
    DEAD = "dead"


class Transaction:
    """What is open on one raw connection, and how it ends."""

    def __init__(
        self,
        connection: Connection,
        turn: Turn,
        log: TransactionLog,
        file: DatabaseFile,
        *,
        max_bytes: int,
        turn_limit: float | None = None,
        snapshot_isolation: bool = False,
    ) -> None:
        self.connection = connection
        self.log = log
        self.file = file
        self.turn = turn
        self.cluster = TransactionTurn(log)
        self.turn_limit = turn_limit
        self.snapshot_isolation = snapshot_isolation
        self.max_bytes = max_bytes
        self.manual = False  # set_autocommit(False): the first write begins a transaction
        # The log is applied through this connection: its transactions are committed, not proposed.
        self.applies = False
        self.state = State.IDLE
        self.authorizer = Authorizer(allows_triggers=can_switch_triggers_off())
        self.capture = Capture(connection, max_bytes)
        self.applier = TransactionApplier(connection)
        self.observed = Observed(self.capture.schema)
        self.keys = TransactionKeys(self)
        self.base = 0
        self._cursor = connection.cursor(sqlite3.Cursor)
        self._cursor.row_factory = None
        self._pending: weakref.WeakSet[GuardedCursor] = weakref.WeakSet()
        self._savepoints: list[tuple[str, int]] = []  # name, length of the captured changes
        self._has_tables = False
        # schema_version when it was last looked whose database this is, and the cluster's id then.
        self._noticed_version = -1
        self._noticed_cluster = ""
        # PRAGMA foreign_keys; None: to be asked. Changes: with every statement that may be one that sets it.
        self._enforced: bool | None = None
        self._death: Exception | None = None
        self._is_expiring = False  # the watchdog interrupts what runs
        self._lock = threading.RLock()
        connection.set_authorizer(self.authorizer)

    def has_lost_its_file(self) -> bool:
        """Whether the connection is to be made anew, which nobody notices: nothing is open on it (rule 17)."""
        return self.state is State.IDLE and not (self.applies or self.manual or self.file.is_same())

    def _open_snapshot(self) -> None:
        self.file.check()
        self._internally("BEGIN")
        self.state = State.READING
        for name, _ in self._savepoints:
            self._internally(f"SAVEPOINT {quoted(name)}")

    def _start_writing(self, *, is_exposed: bool = True, attempt: int = 0) -> None:
        """The first write: take the turns, and go on only from the state that the reads saw (rules 9, 14 and 15).

        `attempt`: of a single statement in a transaction of its own. `is_exposed`: see TransactionTurn.
        """
        if self.state is State.IDLE:
            self.state = State.BEGUN
        self.read_ahead()
        self.file.check()
        if not self.applies:
            self.cluster.before_write(attempt=attempt, is_exposed=is_exposed or bool(self.observed))
        self.turn.take(ahead=self.cluster.is_held)
        try:
            self._begin_with_turn()
        except BaseException as error:
            if isinstance(error, TransactionConflict):
                self._die(error)
            else:
                self._abandon()
            raise
        self.capture.start()
        self.state = State.WRITING
        # Behind a fence nobody else's entry waits for this host's turn.
        if self.turn_limit is not None and not self.applies and not self.cluster.is_fenced:
            watchdog.watch(self.turn, self.turn_limit, self._expire)

    def read_ahead(self) -> None:
        """Fetch what is left of every open result: a statement that is not at its end pins an old snapshot."""
        if self._pending:
            for cursor in list(self._pending):
                cursor.read_ahead()
            self._pending.clear()

    def has_key_counter(self, table: str) -> bool:
        """Whether keys of this table come from a counter (AUTOINCREMENT), as Django's automatic keys do."""
        with self._internal():
            try:
                return bool(self.capture.schema.table(table).autoincrement)
            except (KeyError, UnsupportedTable):  # the statement itself will say what is wrong
                return False

    def notice_database(self) -> bool:
        """Whether the database has become another cluster's since the last call, by an image (rule 17).

        Blocks of keys are void then: whatever reserved them is in no log of that cluster. An image moves schema_version
        as every schema change does, so this costs a PRAGMA as long as nothing happens.
        """
        with self._internal():
            (version,) = self._cursor.execute("PRAGMA main.schema_version").fetchone()
        return version != self._noticed_version and self._notice_version(version)

    def _notice_version(self, version: int) -> bool:
        with self._internal():
            before, self._noticed_cluster = self._noticed_cluster, cluster_id_of(self._cursor)
        self._noticed_version = version
        self.log.connected(self._noticed_cluster)
        return before not in ("", self._noticed_cluster)

    def foreign_keys_enforced(self) -> bool:
        """PRAGMA foreign_keys, which no transaction can change."""
        if self._enforced is None:
            with self._internal():
                self._enforced = bool(self._cursor.execute("PRAGMA foreign_keys").fetchone()[0])
        return self._enforced

    def key_epoch(self, table: str) -> int:
        """Index of the last entry that set back the counter of the table's automatic keys, as this transaction sees."""
        with self._internal():
            return self.applier.marks.table(table).key_epoch if self._tables_exist() else 0

    def _tables_exist(self) -> bool:
        """Whether raftlog's tables are there, in the snapshot that is open. They never go away."""
        if not self._has_tables:
            sql = "SELECT 1 FROM main.sqlite_master WHERE name = 'raftlog_positions'"
            self._has_tables = bool(self._cursor.execute(sql).fetchall())
        return self._has_tables

    def _begin_with_turn(self) -> None:
        with self._internal():
            has_read = self.state is State.READING and bool(self.observed)
            seen = self.applier.applied_index if has_read and self._tables_exist() else 0
            if self.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            if not self._tables_exist():
                self.applier.make_tables()
            self.capture.renew()
            version = self.capture.schema.version
            is_another = version != self._noticed_version and self._notice_version(version)
            self._cursor.execute("BEGIN IMMEDIATE")
            self.applier.marks.begin()
            for name, _ in self._savepoints:
                self._cursor.execute(f"SAVEPOINT {quoted(name)}")
            self.base = self.applier.applied_index
            if has_read and (self.base < seen or is_another):
                effects.conflicted()
                raise TransactionConflict("another image of the database was installed meanwhile; nothing was changed")
            if has_read and self.base != seen:
                self._check_reads_since(seen)

    def _check_reads_since(self, seen: int) -> None:
        observed = self.observed
        observed.settle()
        try:
            check_unchanged_since(self.applier.marks, seen, sorted(observed.tables), list(observed.rows), ())
        except Refused as refused:
            effects.conflicted()
            raise TransactionConflict(f"{refused}, and now it wants to write; nothing was changed") from None

    def commit(self) -> None:
        """End the transaction: through the log if it changed anything. Raises what the log says against it."""
        with self._lock:
            if self.state is State.WRITING and self.applies:
                self._commit_applied()
            elif self.state is State.WRITING:
                self._commit_changes()
            elif self.state is State.DEAD:
                death = self._death
                self._reset()
                if death is not None:
                    raise death
            else:
                if self.connection.in_transaction:
                    self._internally("COMMIT /* raftlog */")
                self._reset()

    def _commit_applied(self) -> None:
        with self._internal():
            self._cursor.execute("COMMIT /* raftlog */")
        self.capture.committed()
        self._abandon()

    def _commit_changes(self) -> None:
        try:
            self.file.check()
            with self._internal():
                enforced = self.foreign_keys_enforced()
                write_set = gather(
                    self._cursor, self.capture, self.observed, self.base, self.snapshot_isolation, enforced=enforced
                )
            body = b"" if write_set is None else encoded(write_set, self.max_bytes)
        except BaseException:
            self._abandon()
            raise
        self._roll_back_locally()
        if write_set is None:
            self._abandon()
            return
        if not self.log.holds_turn:
            self.turn.give_back()
        try:
            verdict = self._propose(write_set, body)
        except NotProposed:
            raise
        except BaseException:
            self.keys.used()
            effects.happened()  # the outcome is unknown
            raise
        else:
            if verdict.kind is VerdictKind.APPLIED:
                self.keys.used()
                effects.happened()
                return
            if verdict.kind is not VerdictKind.INTEGRITY:
                effects.conflicted()
            if verdict.kind is VerdictKind.UNIQUE_CONFLICT:
                self.keys.collided()
            raise conflict(verdict)
        finally:
            self._abandon()

    def _propose(self, write_set: WriteSet, body: bytes) -> Verdict:
        self.capture.sink.muted = True
        try:
            with self._internal():
                if write_set.is_schema and self.log.holds_turn:
                    self.capture.drop()
                    self.capture.rolled_back()
                return self.log.commit(write_set, body, self.applier)
        finally:
            self.capture.sink.muted = False

    def rollback(self) -> None:
        with self._lock:
            self._abandon()

    def _roll_back_locally(self) -> None:
        with self._internal():
            if self.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            self.capture.sink.clear()
            self.capture.rolled_back()

    def _abandon(self) -> None:
        """Roll back, give the turn back, forget."""
        try:
            if self.state is State.WRITING or self.connection.in_transaction:
                self._roll_back_locally()
        finally:
            if self.turn.held:
                watchdog.forget(self.turn)
                self.turn.give_back()
            self._reset()

    def _reset(self) -> None:
        self.state = State.IDLE
        self._death = None
        self._savepoints.clear()
        self.capture.sink.clear()
        self.keys.unused()
        self.observed = Observed(self.capture.schema)
        self.cluster.release()

    def close(self) -> None:
        with self._lock:
            self._abandon()
            self.turn.close()

    def _raise_if_dead(self) -> None:
        if self.state is State.DEAD and self._death is not None:
            raise type(self._death)(*self._death.args)

    def _expire(self) -> None:
        """Called by the watchdog: the turn was held for longer than its limit."""
        since = self.turn.held_since
        self._is_expiring = True
        while not self._lock.acquire(timeout=0.02):
            self.connection.interrupt()
        try:
            if self.state is State.WRITING and self.turn.held and self.turn.held_since == since:
                self._die(self._expiry())
        finally:
            self._is_expiring = False
            self._lock.release()

    def _expiry(self) -> TurnExpired:
        return TurnExpired(
            f"the transaction held the write turn for longer than {self.turn_limit} s and was rolled back; "
            "do slow work before the first write, or in smaller transactions"
        )

    def _die(self, death: Exception) -> None:
        """Roll back now; every statement raises `death` until the outermost block ends."""
        self._abandon()
        self.state = State.DEAD
        self._death = death

    # raftlog's own statements

    def _internally(self, sql: str) -> None:
        with self._internal():
            self._cursor.execute(sql)

    def _internal(self) -> _Internal:
        return _Internal(self.authorizer)


class _Internal:
    """While entered, the authorizer lets everything pass. Nests."""

    __slots__ = ("_authorizer", "_before")

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    def __enter__(self) -> None:
        self._before = self._authorizer.is_internal
        self._authorizer.is_internal = True

    def __exit__(self, *_: object) -> None:
        self._authorizer.is_internal = self._before
