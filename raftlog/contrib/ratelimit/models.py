"""How full each bucket is. Written by the command `raftlog_ratelimit.take` only."""

from __future__ import annotations

from django.db import models

from raftlog.models import ReplicatedModel

NAME_LENGTH = 300


class Bucket(ReplicatedModel):
    """A row stands as long as its bucket is not full; a full one needs none."""

    name: models.CharField[str, str] = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    # When it is full again, if nobody takes anything: microseconds since the epoch, by log time. GCRA's theoretical
    # arrival time. Invariant: never goes back.
    full_at: models.BigIntegerField[int, int] = models.BigIntegerField(db_index=True)

    def __str__(self) -> str:
        return self.name
