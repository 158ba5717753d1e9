"""One application process of `raft bench --transactions`: plain Django code, on whatever ENGINE its settings name.

`python -m raftlog.testing.bench.orm_client`, a Work as JSON on stdin; see together.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Literal

import msgspec

from raftlog.runtime import clock
from raftlog.testing.bench.client import Measured, run_blocking
from raftlog.testing.bench.stages import Stages, trace_commits

Case = Literal["create", "ten", "bulk", "update", "hot", "read"]


class Work(msgspec.Struct):
    """`threads` writers, each with one transaction at a time, for `seconds`."""

    case: Case
    seconds: float
    threads: int
    value: str = "x" * 100
    rows: int = 1000  # of one bulk_create
    traced: bool = False


class Worked(msgspec.Struct):
    """`measured` counts transactions (or reads). `cpu`: seconds of this process."""

    measured: Measured
    cpu: float
    stages: Stages


def action(work: Work) -> Callable[[], int]:
    """A function that does one transaction; each thread gets its own, and a row of its own."""
    from django.db import transaction
    from django.db.models import F

    from raftlog.testing.bench_site.models import Item

    items = Item.objects
    value = work.value

    def create() -> int:
        items.create(name=value)
        return 1

    def ten() -> int:
        with transaction.atomic():
            for _ in range(10):
                items.create(name=value)
        return 1

    def bulk() -> int:
        items.bulk_create([Item(name=value) for _ in range(work.rows)])
        return 1

    if work.case in ("create", "ten", "bulk"):
        return {"create": create, "ten": ten, "bulk": bulk}[work.case]
    key = items.order_by("pk").values_list("pk", flat=True)[0] if work.case == "hot" else items.create(name=value).pk

    def update() -> int:
        return items.filter(pk=key).update(number=F("number") + 1)

    def read() -> int:
        return int(items.get(pk=key).pk == key)

    return read if work.case == "read" else update


def main() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=Work)
    import django

    django.setup()
    stages = Stages()
    actions = [action(work) for _ in range(work.threads)]
    cpu = 0.0

    def on_ready() -> None:
        nonlocal cpu
        if work.traced:
            trace_commits(stages)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        cpu = clock.process_cpu()

    measured = run_blocking(actions, work.seconds, on_ready)
    stages.transactions, stages.whole = measured.count, sum(measured.latencies)
    worked = Worked(measured, clock.process_cpu() - cpu, stages)
    sys.stdout.write(msgspec.json.encode(worked).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)  # what is left are daemons and sockets: nothing to wait for


if __name__ == "__main__":
    main()
