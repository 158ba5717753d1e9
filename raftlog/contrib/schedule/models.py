"""Where each job stands, and its runs. Written by commands only."""

from __future__ import annotations

import datetime

from django.db import models

from raftlog.models import ReplicatedModel

NAME_LENGTH = 200


class JobState(ReplicatedModel):
    """How far a job has come. Made when a leader first sees the job in its code."""

    name: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    # The due time that was fired last; before the first, the moment from which on the job counts.
    # Invariant: never goes back. A job is fired only by an entry that names this value and a later one.
    last_due: models.DateTimeField[datetime.datetime, datetime.datetime] = models.DateTimeField()

    class Meta:
        verbose_name = "job"
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} until {self.last_due}"


class Run(ReplicatedModel):
    """One due time of a job that was fired."""

    # The index of the entry.
    index: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    job: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH)
    due: models.DateTimeField[datetime.datetime, datetime.datetime] = models.DateTimeField()
    # When the entry was taken in.
    fired_at: models.DateTimeField[datetime.datetime, datetime.datetime] = models.DateTimeField()
    # The node that proposed it.
    node: models.CharField[str, str] = models.CharField(max_length=64)
    # The task that it enqueued, as hex; "" for a command, which ran in the entry.
    task: models.CharField[str, str] = models.CharField(max_length=32, blank=True)
    # Why a command failed; "" otherwise.
    error: models.TextField[str, str] = models.TextField(blank=True)

    class Meta:
        ordering = ["-due"]
        constraints = [models.UniqueConstraint(fields=["job", "due"], name="raftlog_schedule_once")]

    def __str__(self) -> str:
        return f"{self.job} at {self.due}"
