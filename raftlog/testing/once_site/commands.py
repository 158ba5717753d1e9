"""The job of a command, and of a transaction, which does the same."""

from __future__ import annotations

from typing import Any

from django.db.models import F

from raftlog import command
from raftlog.testing.once_site.models import Counter, Done


def do(name: str, job: str) -> int:
    Counter.objects.get_or_create(name=name)
    Counter.objects.filter(name=name).update(value=F("value") + 1)
    number = Counter.objects.get(name=name).value
    Done.objects.create(job=job, number=number)
    return number


@command
def count(ctx: Any, *, job: str) -> int:
    return do("commands", job)
