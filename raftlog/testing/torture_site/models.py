"""What the commands of a torture run change, and below, what plain ORM code does.

For commands: a map, names that are given once, notes that refer to the map, and a ledger of all that took effect.
For transactions: rows whose `reference` names the transaction that wrote them last, and `previous` the one before, so
that the order of all versions is known; and a marker for each transaction.
"""

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


class Versioned(models.Model):
    """`reference` of the transaction that wrote the row last, "" for none; `previous`: what stood there before."""

    reference = models.CharField(max_length=80, default="")
    previous = models.CharField(max_length=80, default="")

    class Meta:
        abstract = True


class Account(Versioned):
    """Money goes from one to another; the sum of all is always the same."""

    balance = models.IntegerField()

    def __str__(self) -> str:
        return f"account {self.pk}: {self.balance}"


class Joint(Versioned):
    """One of two accounts of a pair, of which either may be below zero as long as both together are not."""

    pair = models.IntegerField()
    balance = models.IntegerField()

    def __str__(self) -> str:
        return f"joint {self.pk} of pair {self.pair}: {self.balance}"


class Booking(models.Model):
    """No more than a few for each slot, which only counting them sees to."""

    slot = models.CharField(max_length=40, db_index=True)
    reference = models.CharField(max_length=80)

    def __str__(self) -> str:
        return f"{self.slot}: {self.reference}"


class Username(models.Model):
    """Given once, by get_or_create()."""

    name = models.CharField(max_length=80, unique=True)
    reference = models.CharField(max_length=80)

    def __str__(self) -> str:
        return f"{self.name}: {self.reference}"


class Job(models.Model):
    """Made by bulk_create(), and deleted by the one who takes it."""

    reference = models.CharField(max_length=80)

    def __str__(self) -> str:
        return f"job {self.pk} of {self.reference}"


class Hit(models.Model):
    """A counter that everybody increments, by single statements outside atomic()."""

    count = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.count} hits"


class Marker(models.Model):
    """One for each transaction that was committed. Nothing in it is unique: a repeat must show."""

    reference = models.CharField(max_length=80, db_index=True)

    def __str__(self) -> str:
        return self.reference
