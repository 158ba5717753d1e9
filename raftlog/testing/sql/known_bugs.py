"""Known bugs of certification-based replication, for the workload on SQLite: as `raftlog.testing.known_bugs`.

What they change is imported only where one is switched on: it needs Django.
"""

from __future__ import annotations

from typing import Any

from raftlog.testing.mutations import Patch, mutation
from raftlog.testing.workload import configure_django


@mutation("certification-skipped", "a transaction is applied whatever changed since it ran", workload="sql")
def _certification_skipped() -> list[Patch]:
    configure_django()
    from raftlog.replication import transactions

    def old_image(self: Any, shape: Any, key: list[Any], before: bytes) -> Any:
        return original(self, shape, key, b"")

    original = transactions.TransactionEntry._old_image
    return [
        (transactions, "check_unchanged_since", lambda *arguments: None),
        (transactions.TransactionEntry, "_old_image", old_image),
    ]


@mutation(
    "verdict-depends-on-batch", "entries are certified by what had changed when their batch began", workload="sql"
)
def _verdict_depends_on_batch() -> list[Patch]:
    configure_django()
    from raftlog.replication import apply, transactions

    # Of the connection's batch under way: positions at its begin.
    begins: dict[int, Any] = {}

    def transact(self: Any, database: Any, *arguments: Any) -> Any:
        begins.clear()
        return original_transact(self, database, *arguments)

    def certify(self: Any) -> None:
        begin = begins.setdefault(id(self.marks), self.marks.positions())
        if max(begin.last_data, begin.last_schema) > self.write_set.base:
            original_certify(self)

    original_transact, original_certify = apply.DatabaseStateMachine._transact, transactions.TransactionEntry.certify
    return [(apply.DatabaseStateMachine, "_transact", transact), (transactions.TransactionEntry, "certify", certify)]


@mutation("capture-kept-after-rollback", "a rollback to a savepoint leaves what was captured", workload="sql")
def _capture_kept_after_rollback() -> list[Patch]:
    configure_django()
    from raftlog.backends.sqlite3 import control

    def rollback_to(self: Any, *arguments: Any) -> None:
        captured = list(self.capture.sink.changes)
        original(self, *arguments)
        self.capture.sink.changes[:] = captured

    original = control.Control._rollback_to
    return [(control.Control, "_rollback_to", rollback_to)]


@mutation("key-block-used-again", "after a crash a process goes on with its old blocks", workload="sql")
def _key_block_used_again() -> list[Patch]:
    configure_django()
    from raftlog.replication.key_blocks import KeyBlocks
    from raftlog.testing.sql.host import Host

    reserved: dict[int, list[Any]] = {}

    def add(self: KeyBlocks, *block: Any) -> None:
        reserved.setdefault(id(self), []).append(block)
        original_add(self, *block)

    def kill_applications(self: Host) -> None:
        blocks = reserved.pop(id(self.log.key_blocks), [])
        original_kill(self)
        for block in blocks:
            assert self.log.key_blocks is not None
            self.log.key_blocks.add(*block)

    original_add, original_kill = KeyBlocks.add, Host.kill_applications
    return [(KeyBlocks, "add", add), (Host, "kill_applications", kill_applications)]


@mutation("stale-triggers", "triggers stay as they are when the schema has changed", workload="sql")
def _stale_triggers() -> list[Patch]:
    configure_django()
    from raftlog.backends.sqlite3.capture import Capture

    def renew(self: Capture) -> None:
        self.schema.refresh()

    return [(Capture, "renew", renew)]


@mutation("applied-index-apart", "the applied index is written in a transaction of its own", workload="sql")
def _applied_index_apart() -> list[Patch]:
    configure_django()
    from django.db import transaction

    from raftlog.replication import apply, run, tables

    def transact(self: Any, database: Any, *arguments: Any) -> Any:
        done = original(self, database, *arguments)
        with transaction.atomic(using=self.alias), database.connection.cursor() as cursor:
            write_applied(cursor, done.before, done.applied)
        return done

    original, write_applied = apply.DatabaseStateMachine._transact, tables.write_applied
    return [
        (apply.DatabaseStateMachine, "_transact", transact),
        (run, "write_applied", lambda *arguments: None),
    ]


@mutation("key-recorded-apart", "a command's idempotency key is recorded in a transaction of its own", workload="sql")
def _key_recorded_apart() -> list[Patch]:
    configure_django()
    from django.db import transaction

    from raftlog.replication import apply, calling

    pending: list[tuple[Any, ...]] = []

    def transact(self: Any, database: Any, *arguments: Any) -> Any:
        pending.clear()
        done = original(self, database, *arguments)
        for each in pending:
            with transaction.atomic(using=self.alias):
                record(*each)
        return done

    original, record = apply.DatabaseStateMachine._transact, calling._record
    return [
        (apply.DatabaseStateMachine, "_transact", transact),
        (calling, "_record", lambda *arguments: pending.append(arguments)),
    ]


@mutation(
    "key-not-looked-up", "a transaction with an idempotency key does not look whether it was used", workload="sql"
)
def _key_not_looked_up() -> list[Patch]:
    configure_django()
    from raftlog.backends import idempotent
    from raftlog.replication import idempotency
    from raftlog.replication.tables import IdempotencyKey

    def close(self: Any) -> None:
        IdempotencyKey.objects.using(self._alias).filter(pk=idempotency.row_id(self.scope, self.key)).delete()
        original(self)

    def find(self: Any) -> bool:
        self._before, self._log_time = None, idempotent.log_time(self._alias)
        return False

    original = idempotent.Request._close
    return [(idempotent.Request, "_find", find), (idempotent.Request, "_close", close)]
