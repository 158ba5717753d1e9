"""One table for commands, one for transactions."""

from __future__ import annotations

from django.db import models


class Row(models.Model):
    # The index of the command that made it, in steps of its rows.
    id: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    value: models.CharField[str, str] = models.CharField(max_length=200)

    def __str__(self) -> str:
        return f"{self.pk}: {self.value}"


class Item(models.Model):
    id: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    name: models.CharField[str, str] = models.CharField(max_length=200)
    number: models.IntegerField[int, int] = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.name
