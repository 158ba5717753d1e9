"""A map, names that are given once, notes that refer to the map, and a ledger of all commands that took effect."""

from django.db import models


class Pair(models.Model):
    """One key of the map. The value is JSON."""

    key = models.CharField(primary_key=True, max_length=80)
    value = models.TextField()

    def __str__(self) -> str:
        return f"{self.key}: {self.value}"


class Claim(models.Model):
    """A name that the first to ask gets; all others meet an IntegrityError."""

    name = models.CharField(primary_key=True, max_length=80)
    reference = models.CharField(max_length=80)

    def __str__(self) -> str:
        return f"{self.name}: {self.reference}"


class Note(models.Model):
    """Refers to a pair, which must exist. Django's foreign keys are checked at commit: apply must do it sooner."""

    index = models.BigIntegerField(primary_key=True)
    pair = models.ForeignKey(Pair, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"{self.index}: {self.pair_id}"


class Entry(models.Model):
    """One line of the ledger for each time a command took effect. Nothing in it is unique: a repeat must show."""

    reference = models.CharField(max_length=80, db_index=True)
    index = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.index}: {self.reference}"
