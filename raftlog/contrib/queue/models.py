"""The one table of the queue. Enqueueing inserts a row; all else is done by commands (commands.py), or, for a
transactional task, by its own transaction."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from raftlog.models import ReplicatedModel

NAME_LENGTH = 200
QUEUE_LENGTH = 64


class State(models.TextChoices):
    # Waits for its time and for a worker.
    READY = "READY", "ready"
    # Claimed by a worker, until claimed_until.
    RUNNING = "RUNNING", "running"
    # Completed; `result` is what it returned.
    SUCCESSFUL = "SUCCESSFUL", "successful"
    # A dead letter: it failed as often as it may.
    FAILED = "FAILED", "failed"


class QueuedTask(ReplicatedModel):
    """One call of a task, from enqueueing until it is pruned."""

    # A version 7 UUID: it begins with the time of enqueueing, so that ids are in that order.
    id: models.UUIDField[uuid.UUID, uuid.UUID] = models.UUIDField(primary_key=True, editable=False)
    name: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH)
    # Alias in TASKS of the backend that enqueued it; "": raftlog's own @task.
    backend: models.CharField[str, str] = models.CharField(max_length=64, blank=True)
    queue: models.CharField[str, str] = models.CharField(max_length=QUEUE_LENGTH, default="default")
    # Higher ones first.
    priority: models.SmallIntegerField[int, int] = models.SmallIntegerField(default=0)
    # {"args": […], "kwargs": {…}}
    arguments: models.JSONField[Any, Any] = models.JSONField()
    state: models.CharField[str, str] = models.CharField(max_length=10, choices=State.choices, default=State.READY)
    # Not before. Changes: set into the future by a failed attempt.
    run_after: models.DateTimeField[datetime.datetime, datetime.datetime] = models.DateTimeField()
    max_attempts: models.PositiveSmallIntegerField[int, int] = models.PositiveSmallIntegerField(default=1)
    # Seconds until the second attempt; doubled with each one more.
    backoff: models.FloatField[float, float] = models.FloatField(default=0)
    # Seconds that a claim holds unless it is renewed.
    visibility: models.FloatField[float, float] = models.FloatField(default=60)
    # Seconds that the row is kept once it is finished.
    keep: models.FloatField[float, float] = models.FloatField(default=0)
    # The worker completes it in the same transaction as what it writes: nobody renews its claim meanwhile.
    transactional: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    enqueued_at: models.DateTimeField[datetime.datetime, datetime.datetime] = models.DateTimeField()
    started_at: models.DateTimeField[datetime.datetime | None, datetime.datetime | None] = models.DateTimeField(
        null=True, blank=True
    )
    last_attempted_at: models.DateTimeField[datetime.datetime | None, datetime.datetime | None] = models.DateTimeField(
        null=True, blank=True
    )
    finished_at: models.DateTimeField[datetime.datetime | None, datetime.datetime | None] = models.DateTimeField(
        null=True, blank=True
    )
    # Claims so far, those given back unused left out.
    attempts: models.PositiveSmallIntegerField[int, int] = models.PositiveSmallIntegerField(default=0)
    # Who holds it: the index of the entry that claimed it, unique and rising; 0 for nobody. Kept when it is finished.
    claim: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)
    worker: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH, blank=True)
    # By log time. Not null exactly while RUNNING.
    claimed_until: models.DateTimeField[datetime.datetime | None, datetime.datetime | None] = models.DateTimeField(
        null=True, blank=True
    )
    result: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    # Of failed attempts, the newest last: [worker, class of the exception, traceback]
    errors: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    # When it may be pruned. Not null exactly once it is finished.
    keep_until: models.DateTimeField[datetime.datetime | None, datetime.datetime | None] = models.DateTimeField(
        null=True, blank=True
    )

    class Meta:
        verbose_name = "task"
        indexes = [
            models.Index(fields=["state", "queue", "-priority", "run_after", "id"], name="raftlog_queue_next_in_queue"),
            models.Index(fields=["state", "-priority", "run_after", "id"], name="raftlog_queue_next"),
            models.Index(
                fields=["claimed_until"], name="raftlog_queue_claimed", condition=Q(claimed_until__isnull=False)
            ),
            models.Index(fields=["keep_until"], name="raftlog_queue_finished", condition=Q(keep_until__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.id} ({self.state})"

    @property
    def is_finished(self) -> bool:
        return self.state in (State.SUCCESSFUL, State.FAILED)

    @property
    def error(self) -> str:
        """The traceback of its last failed attempt, "" if none failed."""
        return str(self.errors[-1][2]) if self.errors else ""
