"""Bugs that a torture run must find, switched on by RAFTLOG_TORTURE_MUTATION in its nodes and applications alone.

They exchange functions of the code under test; nothing in it knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from raftlog.replication.transactions import TransactionEntry
from raftlog.runtime import clock


def skip_certification_of_reads() -> None:
    """Only what was written is certified: snapshot isolation, which says that it is serializable."""
    certify = TransactionEntry.certify

    def writes_only(entry: Any) -> None:
        whole = entry.write_set
        entry.write_set = msgspec.structs.replace(whole, read_tables=[], read_rows=[])
        try:
            certify(entry)
        finally:
            entry.write_set = whole

    TransactionEntry.certify = writes_only  # type: ignore[method-assign]


def skip_certification() -> None:
    """Whatever was proposed is applied, whoever was first. The hashes of rows, which would notice, are not compared."""
    old_image = TransactionEntry._old_image

    def any_image(entry: Any, shape: Any, key: Any, before: bytes) -> Any:
        return old_image(entry, shape, key, b"")

    TransactionEntry._old_image = any_image  # type: ignore[method-assign]
    TransactionEntry.certify = lambda entry: None  # type: ignore[method-assign]


def feed_apart() -> None:
    """What an entry changed is told in a transaction after its own."""
    # They need Django's apps, which who only lists the mutations has not loaded.
    from django.db import transaction

    from raftlog.replication.apply import DatabaseStateMachine
    from raftlog.replication.database import ApplyConnection

    apply = DatabaseStateMachine._apply_some
    held: list[tuple[int, bytes]] = []

    def without_feed(database: Any, index: int, changes: bytes) -> None:
        held.append((index, changes))
        moved_to(database, index, b"")

    def feed_afterwards(machine: Any, *arguments: Any) -> Any:
        done = apply(machine, *arguments)
        clock.sleep(0.01)  # as on a slow disk
        for index, changes in held:
            if changes and index <= machine.last_applied:
                with transaction.atomic(using=machine.alias), machine._database.connection.cursor() as cursor:
                    cursor.execute("INSERT INTO raftlog_change VALUES (%s, %s)", [index, changes])
        held.clear()
        return done

    moved_to = ApplyConnection.moved_to
    ApplyConnection.moved_to = without_feed  # type: ignore[method-assign]
    DatabaseStateMachine._apply_some = feed_afterwards  # type: ignore[method-assign]


MUTATIONS: Final[dict[str, Callable[[], None]]] = {
    "skip-certification-of-reads": skip_certification_of_reads,
    "skip-certification": skip_certification,
}
# Found by the trial of the change feed, not by torture.
OF_THE_FEED: Final[dict[str, Callable[[], None]]] = {"feed-apart": feed_apart}
