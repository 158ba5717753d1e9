"""The bank: accounts that have money, transfers and payments that say how it moved.

Ordinary models. A transfer is a command (commands.py) and runs on every node: right for accounts that everybody
uses. A payment is plain Django code (payments.py): it runs once, and its rows go to the other nodes.
Two things always hold, on every node, whatever is killed (`audit` says what does not):

- no balance is ever negative;
- no money is made or lost: what an account has is what was paid in, and what transfers and payments brought and took.
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


class Payment(models.Model):
    # Chosen by the one who pays, so that who does not know whether it was made can pay again, and it is made once.
    reference = models.CharField(max_length=64, primary_key=True)
    source = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="paid")
    target = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="received")
    amount = models.BigIntegerField(help_text="cents")
    made_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["made_at"]

    def __str__(self) -> str:
        return f"{self.reference}: {self.amount} from {self.source} to {self.target}"


class Note(models.Model):
    account = models.ForeignKey(Account, on_delete=models.CASCADE)
    text = models.CharField(max_length=200)
    made_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.text
