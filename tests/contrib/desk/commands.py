from raftlog import command
from raftlog.contrib import sequences
from tests.contrib.desk.models import Invoice


@command
def issue(ctx, *, token: str) -> int:
    return Invoice.objects.create(token=token, number=sequences.draw(ctx, "invoice")).number
