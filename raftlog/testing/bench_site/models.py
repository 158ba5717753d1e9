"""One table."""

from django.db import models


class Row(models.Model):
    # The index of the command that made it, in steps of its rows.
    id = models.BigIntegerField(primary_key=True)
    value = models.CharField(max_length=200)

    def __str__(self) -> str:
        return f"{self.pk}: {self.value}"
