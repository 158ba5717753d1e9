"""One row a flag that is not at its default, and one a change."""

from __future__ import annotations

import datetime
from typing import Any

from django.db import models

from raftlog.models import ReplicatedModel


class Flag(ReplicatedModel):
    name: models.CharField[str, str] = models.CharField(max_length=100, primary_key=True)
    value: models.JSONField[Any, Any] = models.JSONField(null=True)
    # For which share of users a flag of type bool is True; NULL: for all, or none, as its value says.
    percentage: models.FloatField[float | None, float | None] = models.FloatField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class FlagChange(ReplicatedModel):
    """`new` is what Flag holds from then on, as {"value": …, "percentage": …}; null: the default."""

    name: models.CharField[str, str] = models.CharField(max_length=100, db_index=True)
    old: models.JSONField[Any, Any] = models.JSONField(null=True)
    new: models.JSONField[Any, Any] = models.JSONField(null=True)
    by: models.CharField[str, str] = models.CharField(max_length=150, blank=True, default="")
    at: models.DateTimeField[datetime.datetime, datetime.datetime] = models.DateTimeField()

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.name} at {self.at}"
