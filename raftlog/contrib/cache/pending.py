"""Writes that wait for the commit of an open transaction, and what that transaction sees of them meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from raftlog import CommandFailed, ProposalError

logger = logging.getLogger("raftlog.cache")

Change = list[Any]
Propose = Callable[[list[Change]], Any]


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
            self._propose(self.changes)
        except (ProposalError, CommandFailed):
            keys = sorted({str(change[1]) for change in self.changes if len(change) > 1})
            logger.exception("cache %s: not written after a commit: %s", self.location, ", ".join(keys[:20]))


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


def see(connection: BaseDatabaseWrapper, location: str, keys: list[str], found: dict[str, int | bytes]) -> None:
    """Change `found`, what the database has of `keys`, to what the open transaction of this thread has made of it."""
    wanted = set(keys)
    for kind, *rest in pending_changes(connection, location):
        if kind == "clear":
            found.clear()
        elif rest[0] in wanted:
            key, ttl = rest[0], rest[-1]
            if kind == "delete" or (kind != "add" and isinstance(ttl, int) and ttl <= 0):
                found.pop(key, None)
            elif kind == "set" or (kind == "add" and key not in found and (ttl is None or ttl > 0)):
                found[key] = rest[1]
