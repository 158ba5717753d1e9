"""Idempotency keys: what was done under a key that its caller gave is not done again, whoever asks, from wherever.

A command carries its key in its entry; apply looks it up before the function runs, and inserts what it returned in
the transaction of its changes. A transaction (backends/idempotent.py) looks it up and inserts the row by itself, as
rows like any others: of two that run at once, certification lets one through. Either way there is one row for a key,
and what was done under it stands in the database with it, or not at all.

Only what was done is recorded. What failed has changed nothing, and may be tried again under the same key.

Keys expire by log time and are bounded in number, by constants of the code. Rows are removed by commands (each 64th
entry with a key) and by transactions of their own, so in the log, alike on every node.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from raftlog.exceptions import IdempotencyKeyReused
from raftlog.replication import tables
from raftlog.replication.codec import Keyed
from raftlog.replication.tables import IdempotencyKey

KEY_TTL: Final = 24 * 3600 * 1_000_000  # microseconds of log time after which a key may be used anew
MAX_KEYS: Final = 100_000  # one more, and the oldest are forgotten
FORGET_EVERY: Final = 64  # one in so many uses of a key removes what has expired
FORGOTTEN_AT_ONCE: Final = 1_000  # about: all of one log time go together


class Recorded(NamedTuple):
    """What was done under a key. `at`: index of the command's entry, 0 for a transaction."""

    at: int
    result: bytes
    has_expired: bool


def row_id(scope: str, key: str) -> str:
    return blake2b(msgspec.msgpack.encode((scope, key)), digest_size=16).hexdigest()


def find(alias: str, keyed: Keyed, log_time: int) -> Recorded | None:
    """What was recorded under the key. Raises IdempotencyKeyReused."""
    rows = IdempotencyKey.objects.using(alias).filter(pk=row_id(keyed.scope, keyed.key))
    # A lookup by the primary key and nothing more: so it counts as a read of this row, not of the table.
    found = list(rows.values_list("digest", "index", "log_time", "result"))
    if not found:
        return None
    row = found[0]
    if log_time - row[2] > KEY_TTL:
        return Recorded(0, b"", has_expired=True)
    if bytes(row[0]) != keyed.digest:
        raise IdempotencyKeyReused(
            f"the idempotency key {keyed.key!r} was used for something else before, with other arguments or for "
            "another operation; nothing was done. Give each operation a key of its own"
        )
    return Recorded(row[1], bytes(row[3]), has_expired=False)


def record(alias: str, keyed: Keyed, before: Recorded | None, *, index: int, log_time: int, result: bytes) -> None:
    """In the transaction of what was done. `before`: what find() gave, nothing or what has expired.

    Raises IntegrityError: it is there by now.
    """
    rows = IdempotencyKey.objects.using(alias)
    pk = row_id(keyed.scope, keyed.key)
    if before is not None:
        rows.filter(pk=pk).delete()
    row = IdempotencyKey(pk, keyed.scope, keyed.key, keyed.digest, index, log_time, result)
    rows.bulk_create([row])


def require_table(alias: str) -> None:
    """Raises a verdict against a command where there is none: tables.require_table()."""
    tables.require_table(IdempotencyKey, "idempotency keys", alias)


# Expiry


def expired(alias: str, log_time: int) -> int | None:
    """The log time up to which keys are to be forgotten now, None: there are none to forget."""
    times = IdempotencyKey.objects.using(alias).order_by("log_time").values_list("log_time", flat=True)
    surplus = times.order_by().count() - MAX_KEYS
    oldest = enumerate(times[:FORGOTTEN_AT_ONCE])
    due = [time for position, time in oldest if position < surplus or log_time - time > KEY_TTL]
    return due[-1] if due else None


def forget_expired(alias: str, log_time: int) -> None:
    """In a command. By log time and not one by one, so that no collation decides which are the oldest."""
    upto = expired(alias, log_time)
    if upto is not None:
        IdempotencyKey.objects.using(alias).filter(log_time__lte=upto).delete()
