"""Writes that wait for the commit of an open transaction, and what that transaction sees of them meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from raftlog import CommandFailed, ProposalError
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.cache")

Change = list[Any]
Propose = Callable[[list[Change]], Any]

# What one entry of the log holds of a set_many(); more goes into several.
CHUNK_BYTES: Final = 256 * 1024
CHUNK_KEYS: Final = 1_000


class PendingWrite:
    """A hook of on_commit(): the changes of one location under one savepoint, proposed together.

    Django keeps the list of hooks, and takes those of a savepoint that is rolled back off it. So what stands there is
    what the transaction has written so far.
    """

    def __init__(self, location: str, propose: Propose) -> None:
        self.location = location
        self.changes: list[Change] = []
        self._propose = propose

    def __call__(self) -> None:
        """The transaction is committed, whatever becomes of the cache: what goes wrong is logged."""
        try:
            for some in in_entries(self.changes):
                self._propose(some)
        except (ProposalError, CommandFailed):
            keys = sorted({str(change[1]) for change in self.changes if len(change) > 1})
            logger.exception(
                "cache %s: not written after a commit: %s",
                *(self.location, ", ".join(keys[:20])),
                extra=log_fields("cache_not_written", about=self.location),
            )


def write_at_commit(connection: BaseDatabaseWrapper, location: str, propose: Propose, changes: list[Change]) -> None:
    last = connection.run_on_commit[-1] if connection.run_on_commit else None
    hook = last[1] if last is not None and last[0] == set(connection.savepoint_ids) else None
    if not isinstance(hook, PendingWrite) or hook.location != location:
        hook = PendingWrite(location, propose)
        transaction.on_commit(hook, using=connection.alias)
    hook.changes += changes


def pending_changes(connection: BaseDatabaseWrapper, location: str) -> Iterator[Change]:
    for _, hook, *_ in connection.run_on_commit:
        if isinstance(hook, PendingWrite) and hook.location == location:
            yield from hook.changes


def see(changes: Iterable[Change], keys: list[str], found: dict[str, int | bytes]) -> None:
    """Change `found`, what the database has of `keys`, to what it will have after `changes`."""
    wanted = set(keys)
    for kind, *rest in changes:
        if kind == "clear":
            found.clear()
        elif rest[0] in wanted:
            key, ttl = rest[0], rest[-1]
            if kind == "delete" or (kind != "add" and isinstance(ttl, int) and ttl <= 0):
                found.pop(key, None)
            elif kind == "set" or (kind == "add" and key not in found and (ttl is None or ttl > 0)):
                found[key] = rest[1]


def in_entries(changes: list[Change]) -> Iterator[list[Change]]:
    """In pieces that fit into one entry of the log each; most often all of them."""
    some: list[Change] = []
    size = 0
    for change in changes:
        value = change[2] if len(change) > 2 else b""
        length = len(str(change[1:2])) + (len(value) if isinstance(value, bytes) else 8)
        if some and (size + length > CHUNK_BYTES or len(some) >= CHUNK_KEYS):
            yield some
            some, size = [], 0
        some.append(change)
        size += length
    if some:
        yield some
