"""What can be done at the bank. Each command runs on every node, in the same order, with the same result.

So they take time and numbers from `ctx`, and never from the machine they run on.
"""

from django.db.models import F

from demo_site.bank.models import Account, Transfer
from raftlog import command


class NotEnoughMoney(Exception):
    """The account's balance is less than the amount."""


@command
def open_account(ctx, *, name: str, balance: int = 0) -> int:
    """A new account, with what is paid in at once (cents); returns its number. A name that is taken is refused."""
    if balance < 0:
        raise ValueError(f"balance is {balance}; it cannot be negative")
    return Account.objects.create(name=name, balance=balance, paid_in=balance).pk


@command(raises=[NotEnoughMoney])
def transfer(ctx, *, source: str, target: str, amount: int, reference: str = "") -> int:
    """Move `amount` cents; returns the transfer's number."""
    if amount < 1:
        raise ValueError(f"amount is {amount}; at least 1 can be moved")
    if source == target:
        raise ValueError(f"{source} is both source and target")
    payer = Account.objects.get(name=source)
    payee = Account.objects.get(name=target)
    if payer.balance < amount:
        raise NotEnoughMoney(f"{source} has {payer.balance}, less than {amount}")
    Account.objects.filter(pk=payer.pk).update(balance=F("balance") - amount)
    Account.objects.filter(pk=payee.pk).update(balance=F("balance") + amount)
    made = Transfer.objects.create(
        number=ctx.index, reference=reference, source=payer, target=payee, amount=amount, made_at=ctx.now
    )
    return made.number
