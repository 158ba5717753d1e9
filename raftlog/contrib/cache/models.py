"""What is cached, and how much of it there is. Written by the command `raftlog_cache.write` only."""

from __future__ import annotations

from django.db import models

from raftlog.models import ReplicatedModel

LOCATION_LENGTH = 50
KEY_LENGTH = 500


class Entry(ReplicatedModel):
    """A key of a cache. Its value is a number, or bytes that nobody but a reader makes sense of."""

    # "<location>:<key>", the key as make_key() has it.
    name: models.CharField[str, str] = models.CharField(max_length=LOCATION_LENGTH + 1 + KEY_LENGTH, primary_key=True)
    location: models.CharField[str, str] = models.CharField(max_length=LOCATION_LENGTH)
    number: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    data: models.BinaryField[bytes | None, bytes | None] = models.BinaryField(null=True)
    # Microseconds since the epoch, by log time; NULL: never.
    expires_at: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    # Index of the entry in the log that wrote it last: what was written longest ago is culled first.
    written: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta:
        verbose_name = "cache entry"
        verbose_name_plural = "cache entries"

    def __str__(self) -> str:
        return self.name


class Size(ReplicatedModel):
    """How many entries a location has, so that nobody counts them at each write. Counted anew when it culls."""

    location: models.CharField[str, str] = models.CharField(max_length=LOCATION_LENGTH, primary_key=True)
    entries: models.BigIntegerField[int, int] = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.location}: {self.entries}"
