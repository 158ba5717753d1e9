"""One transaction of an application: statements at random, each recorded with what it gave."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from raftlog.backends.exceptions import TransactionConflict, TransactionNotProposed, TransactionOutcomeUnknown
from raftlog.backends.idempotent import once
from raftlog.backends.sqlite3.transaction import State
from raftlog.replication import codec
from raftlog.replication.idempotency import row_id
from raftlog.testing.sql.attempt import Attempt, Call, Ending
from raftlog.testing.sql.worker import here

if TYPE_CHECKING:
    from raftlog.testing.sql.client import SqlClient
    from raftlog.testing.sql.keys import Used

# What a statement may say when the schema is another than its author thought.
SCHEMA_ERRORS: Final = ("no such", "duplicate column", "already exists", "already another", "has no column")


INSERT_KEY: Final = "INSERT INTO raftlog_idempotencykey VALUES (%s, %s, %s, %s, %s, %s, %s)"


class Pause:
    """A request: go on in so many virtual seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class RolledBack(Exception):
    """The application changes its mind."""


class Program:
    """Runs in the thread of its worker, through Django's connection to the host's database."""

    def __init__(self, client: SqlClient, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.alias = client.host.alias
        self.connection: BaseDatabaseWrapper = connections[self.alias]
        self.attempt = Attempt(client.label)
        self._savepoints = 0
        self._tokens = 0

    # Whole transactions

    def alone(self, step: Callable[[Program], None]) -> Attempt:
        """A single statement, or several, each outside of a transaction."""
        self.attempt.alone = True
        return self._end(lambda: self._guarded(step))

    def together(
        self, steps: list[Callable[[Program], None]], *, remake: bool = False, used: Used | None = None
    ) -> Attempt:
        """All steps in one transaction, once for a key; now and then it is rolled back at its end."""
        if used is not None:
            return self._end(lambda: self._once(steps, used))
        changes_mind = self.rng.random() < 0.04

        def run() -> None:
            around = self._editor() if remake else transaction.atomic(using=self.alias)
            with around:
                for step in steps:
                    self._guarded(step)
                    self.pause(0.2)
                if changes_mind:
                    raise RolledBack
                self._note_base()

        return self._end(run)

    def _once(self, steps: list[Callable[[Program], None]], used: Used) -> None:
        self.client.simulation.count("transactions with a key")
        attempt = self.attempt
        attempt.key = used.key
        with once(used.name, used.key, self.alias) as request:
            was_repeat = request.is_repeat
            self.execute(f"SELECT count(*) FROM raftlog_idempotencykey WHERE id = '{row_id('', used.key)}'")
            if not request.is_repeat:
                for step in steps:
                    self._guarded(step)
                    self.pause(0.2)
                request.result = attempt.who
                self._note_base()
                row = [row_id("", used.key), "", used.key, request._keyed.digest, 0, request._log_time]
                insert = Call(INSERT_KEY, (*row, codec.encode(attempt.who)), ("count", 1))
                attempt.calls.append(insert)
        attempt.told = codec.encode(request.result)
        if request.is_repeat:
            self.client.simulation.count("transactions repeated")
            if not was_repeat:  # at its first write, or at its commit
                raise TransactionConflict("another one with its key was first")

    def _editor(self) -> Any:
        self.attempt.foreign_keys_off = True
        self.editor = self.connection.schema_editor()
        return self.editor

    def _end(self, run: Callable[[], None]) -> Attempt:
        attempt = self.client.attempt = self.attempt
        try:
            run()
            attempt.ending = Ending.APPLIED if attempt.entries else Ending.READ
        except TransactionConflict as error:
            self._ended(Ending.CONFLICT, error)
        except TransactionOutcomeUnknown as error:
            self._ended(Ending.UNKNOWN, error)
        except TransactionNotProposed as error:
            self._ended(Ending.NOT_PROPOSED, error)
        except IntegrityError as error:
            self._ended(Ending.INTEGRITY, error)
        except RolledBack as error:
            self._ended(Ending.ROLLED_BACK, error)
        except OperationalError as error:
            if not any(words in str(error) for words in SCHEMA_ERRORS):
                raise
            self._ended(Ending.ROLLED_BACK, error)
        return attempt

    def _ended(self, ending: Ending, error: Exception) -> None:
        self.attempt.ending, self.attempt.error = ending, f"{type(error).__name__}: {error}"

    def _note_base(self) -> None:
        control: Any = self.connection.connection.control
        if control.state is State.WRITING:
            self.attempt.base = control.base
        else:
            with control._internal():
                self.attempt.base = control.applier.applied_index if control._tables_exist() else 0

    def _guarded(self, step: Callable[[Program], None]) -> None:
        """A statement that the data refuse has changed nothing: the transaction goes on."""
        if self.attempt.alone:
            step(self)
            return
        try:
            step(self)
        except TransactionConflict:
            raise
        except IntegrityError:
            return

    # What steps are made of

    def execute(self, sql: str, *parameters: Any) -> list[Any]:
        call = Call(sql, parameters)
        self.attempt.calls.append(call)
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(sql, parameters or None)
            except IntegrityError as error:
                if not isinstance(error, TransactionConflict):
                    call.result = ("error", "IntegrityError")
                raise
            if cursor.description is None:
                call.result = ("count", cursor.rowcount)
                return []
            rows: list[Any] = cursor.fetchall()
            call.result = ("rows", repr(rows))
            return rows

    def replay(self, sql: str) -> None:
        """Through the schema editor, whose copies of whole tables travel as statements."""
        self.attempt.calls.append(Call(sql))
        self.editor.execute(sql)

    def savepoint(self, steps: list[Callable[[Program], None]]) -> None:
        """Steps that are undone together, or kept."""
        self._savepoints += 1
        name = f"s{self._savepoints}"
        calls = self.attempt.calls
        undo = self.rng.random() < 0.5
        calls.append(Call(f"SAVEPOINT {name}"))
        try:
            with transaction.atomic(using=self.alias):
                for step in steps:
                    step(self)
                    self.pause(0.1)
                if undo:
                    raise RolledBack
        except TransactionConflict:
            raise
        except (RolledBack, IntegrityError):
            calls.append(Call(f"ROLLBACK TO {name}"))
        calls.append(Call(f"RELEASE {name}"))

    def automatic_key(self, table: str) -> int:
        """As the compiler of an INSERT takes it."""
        connection: Any = self.connection
        keys = connection.automatic_keys(table, 1)
        if keys is None:
            (found,) = self.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}")
            return int(found[0])
        self.attempt.keys.append((table, keys[0]))
        return int(keys[0])

    def reserve_key(self, table: str) -> None:
        """As the compiler does before a statement of its own transaction."""
        connection: Any = self.connection
        connection.reserve_automatic_keys(table, 1)

    def token(self) -> str:
        self._tokens += 1
        return f"{self.client.label}.{self.client.number}.{self._tokens} "

    def pause(self, probability: float) -> None:
        if self.rng.random() < probability:
            here.worker.park(Pause(self.rng.expovariate(1 / 0.02)))
