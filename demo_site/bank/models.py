"""The bank: accounts that have money, transfers that say how it moved.

Ordinary models. Their rows change only by the commands in commands.py, which run on every node.
Two things always hold, on every node, whatever is killed (`audit` says what does not):

- no balance is ever negative;
- no money is made or lost: what an account has is what was paid in and what transfers brought and took.
"""

from django.db import models


class Account(models.Model):
    name = models.CharField(max_length=50, unique=True)
    balance = models.BigIntegerField(help_text="cents")
    paid_in = models.BigIntegerField(help_text="cents, when it was opened")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Transfer(models.Model):
    # The index of its command in the log: unique, and the same on every node.
    number = models.BigIntegerField(primary_key=True)
    # What the one who asked for it calls it. Not unique, so that a command applied twice would show.
    reference = models.CharField(max_length=64, db_index=True)
    source = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="outgoing")
    target = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="incoming")
    amount = models.BigIntegerField(help_text="cents")
    made_at = models.DateTimeField()

    class Meta:
        ordering = ["number"]

    def __str__(self) -> str:
        return f"{self.number}: {self.amount} from {self.source} to {self.target}"
