"""A counter, and a row for each time that something was done."""

from django.db import models


class Counter(models.Model):
    name = models.CharField(primary_key=True, max_length=20)
    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class Done(models.Model):
    """Not unique by job: a job that is done twice is to be found, not refused."""

    job = models.CharField(max_length=40, db_index=True)
    # What the counter said then.
    number = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.job}: {self.number}"
