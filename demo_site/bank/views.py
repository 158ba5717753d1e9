"""One page: what this node's database holds, and forms that propose commands."""

from django.conf import settings
from django.contrib import messages
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from demo_site.bank.commands import NotEnoughMoney, open_account, transfer
from demo_site.bank.models import Account, Transfer
from raftlog import RaftlogError


def front(request: HttpRequest) -> HttpResponse:
    """GET shows the bank as this node has it; POST proposes a command and comes back."""
    if request.method == "POST":
        try:
            messages.success(request, _act(request.POST))
        except (RaftlogError, NotEnoughMoney, IntegrityError, ValueError) as error:
            messages.error(request, f"{type(error).__name__}: {error}")
        return redirect("front")
    context = {
        "node_id": settings.NODE_ID,
        "members": settings.RAFTLOG.get("MEMBERS", {}),
        "accounts": Account.objects.all(),
        "transfers": Transfer.objects.select_related("source", "target").order_by("-number")[:20],
        "transfer_count": Transfer.objects.count(),
    }
    return render(request, "bank/front.html", context)


def _act(form) -> str:
    """Raises what the command raised, or why it could not be proposed."""
    if form.get("action") == "open":
        name = form.get("name", "").strip()
        if not name:
            raise ValueError("an account needs a name")
        open_account.propose(name=name, balance=int(form.get("balance") or 0))
        return f"Opened an account for {name}."
    number = transfer.propose(
        source=form.get("source", ""),
        target=form.get("target", ""),
        amount=int(form.get("amount") or 0),
        reference=form.get("reference", ""),
    )
    return f"Transfer {number} made."
