"""One row a sequence (and period): the number that was used last."""

from __future__ import annotations

from django.db import models

from raftlog.models import ReplicatedModel


class Sequence(ReplicatedModel):
    # "invoice", or "invoice:2026" where it begins anew each year. A key of text: none is drawn, nothing can collide.
    key: models.CharField[str, str] = models.CharField(max_length=150, primary_key=True)
    last: models.BigIntegerField[int, int] = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["key"]

    def __str__(self) -> str:
        return f"{self.key}: {self.last}"
