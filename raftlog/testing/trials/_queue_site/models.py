"""What is counted at the end."""

from __future__ import annotations

from django.db import models


class Completion(models.Model):
    """A task was finished. There must be one of each."""

    task: models.CharField[str, str] = models.CharField(max_length=32)
    number: models.IntegerField[int, int] = models.IntegerField()
    token: models.BigIntegerField[int, int] = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.number} by {self.token}"


class Effect(models.Model):
    """What a transactional task has written. There must be one of each."""

    number: models.IntegerField[int, int] = models.IntegerField()

    def __str__(self) -> str:
        return str(self.number)
