"""One row a counter."""

from __future__ import annotations

from django.db import models

from raftlog.models import ReplicatedModel


class Counter(ReplicatedModel):
    name: models.CharField[str, str] = models.CharField(max_length=200, primary_key=True)
    value: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"
