"""A payment: plain Django code in a transaction, which knows nothing of nodes."""

from django.db import transaction
from django.db.models import F

from demo_site.bank.commands import NotEnoughMoney
from demo_site.bank.models import Account, Payment
from raftlog import retry_on_conflict


@retry_on_conflict
def pay(*, reference: str, source: int, target: int, amount: int) -> None:
    """Move `amount` cents between accounts (their ids), once for each reference however often it is called.

    Raises NotEnoughMoney, and what a commit can raise. After an unknown outcome it may be called again, also on another
    node: the transaction reads whether its payment is there, and that read is certified.
    """
    with transaction.atomic():
        if Payment.objects.filter(pk=reference).exists():
            return
        payer = Account.objects.get(pk=source)
        if payer.balance < amount:
            raise NotEnoughMoney(f"{payer} has {payer.balance}, less than {amount}")
        Account.objects.filter(pk=source).update(balance=F("balance") - amount)
        Account.objects.filter(pk=target).update(balance=F("balance") + amount)
        Payment.objects.create(reference=reference, source_id=source, target_id=target, amount=amount)
