import os

from demo_site.bank.models import Account
from raftlog import command


@command(version=3)
def throw(ctx, *, name: str, on: str) -> None:
    """Sets a balance, on the node `on` to what no other node can know."""
    value = os.getpid() if os.environ["RAFTLOG_NODE_ID"] == on else 0
    Account.objects.filter(name=name).update(balance=value)


@command
def boast(ctx, *, on: str) -> int:
    """Changes nothing, and returns on the node `on` what no other node can know."""
    return os.getpid() if os.environ["RAFTLOG_NODE_ID"] == on else 0
