"""Who holds which lock, who waits, and the clock by which that ends. Written by commands only; read by anybody.

Times are microseconds of the lock clock (`LockClock.elapsed`), which has no meaning but here.
"""

from __future__ import annotations

from datetime import datetime

from django.db import models

from raftlog.models import ReplicatedModel

NAME_LENGTH = 200
OWNER_LENGTH = 100


class LockClock(ReplicatedModel):
    """One row: the time that has passed within leaderships, by their log time.

    What passed between two leaders counts as nothing: a new leader's log time begins at its wall clock, and could
    otherwise make every lock expire at once. So this clock is never more than a tenth faster than real time.
    """

    term: models.BigIntegerField[int, int] = models.BigIntegerField()
    log_time: models.BigIntegerField[int, int] = models.BigIntegerField()
    elapsed: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.elapsed / 1e6:.1f} s"


class Holder(ReplicatedModel):
    """A holder of a lock or semaphore. The token is the index of the entry by which it was given."""

    token: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    name: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH, db_index=True)
    owner: models.CharField[str, str] = models.CharField(max_length=OWNER_LENGTH, unique=True)
    label: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH)
    expires_at: models.BigIntegerField[int, int] = models.BigIntegerField(db_index=True)
    # Microseconds, and the entry by which it last said that it is alive.
    ttl: models.BigIntegerField[int, int] = models.BigIntegerField()
    renewed: models.BigIntegerField[int, int] = models.BigIntegerField()
    since: models.DateTimeField[datetime, datetime] = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.label}, token {self.token}"


class Waiter(ReplicatedModel):
    """Somebody in the queue of a lock. The ticket is the index of the entry by which it stepped in."""

    ticket: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    name: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH, db_index=True)
    owner: models.CharField[str, str] = models.CharField(max_length=OWNER_LENGTH, unique=True)
    label: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH)
    expires_at: models.BigIntegerField[int, int] = models.BigIntegerField(db_index=True)
    # Microseconds, and the entry by which it last said that it is alive.
    ttl: models.BigIntegerField[int, int] = models.BigIntegerField()
    renewed: models.BigIntegerField[int, int] = models.BigIntegerField()
    since: models.DateTimeField[datetime, datetime] = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}: {self.label} waits, ticket {self.ticket}"


class NewestToken(ReplicatedModel):
    """The newest fencing token that a protected resource has seen: `locks.guard()`."""

    resource: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    token: models.BigIntegerField[int, int] = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.resource}: {self.token}"


class Done(ReplicatedModel):
    """A step that was done under a lock and must not be done again: `raft lock --once KEY`."""

    index: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    name: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH)
    key: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH)
    at: models.DateTimeField[datetime, datetime] = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "key"], name="raftlog_locks_done_once")]

    def __str__(self) -> str:
        return f"{self.name}: {self.key}"
