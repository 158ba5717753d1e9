"""What the queue's benchmark has workers run."""

from __future__ import annotations

from raftlog.contrib.queue import task
from raftlog.testing.bench_site.models import Item


@task(keep=3_600)  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    return number


@task(keep=3_600, transactional=True)  # type: ignore[untyped-decorator]
def write_row(number: int) -> None:
    Item.objects.create(name="written by a task", number=number)
