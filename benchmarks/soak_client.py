"""One application process of the soak: `python -m benchmarks.soak_client NAME [--objects]`, with a node's environment.

Its threads create, change and remove rows by plain Django code, run commands, and read linearizably, at a steady pace,
and keep the tables at one size. SIGTERM ends it; it then prints as JSON how often each was done, what failed, and with
--objects what it held more of than at SIGUSR1.
"""

from __future__ import annotations

import collections
import json
import signal
import sys
import threading
from collections.abc import Callable

from benchmarks.held import Held

KEPT = 500  # rows of each thread
PAUSE = 0.01  # seconds between two operations of a thread


def transactions(name: str) -> Callable[[], str]:
    """One row more, another changed in the same transaction, and now and then the oldest removed."""
    from django.db import transaction
    from django.db.models import F

    from raftlog.testing.bench_site.models import Item

    done = 0

    def act() -> str:
        nonlocal done
        done += 1
        with transaction.atomic():
            last = Item.objects.create(name=name)
            Item.objects.filter(pk=last.pk - 1).update(number=F("number") + 1)
        if done % 100 == 0:
            with transaction.atomic():
                kept = Item.objects.filter(name=name).order_by("-pk").values_list("pk", flat=True)[:KEPT]
                Item.objects.filter(name=name).exclude(pk__in=list(kept)).delete()
        return "transactions"

    return act


def commands(name: str) -> Callable[[], str]:
    from raftlog.testing.bench_site.commands import write_row
    from raftlog.testing.bench_site.models import Row

    done = 0

    def act() -> str:
        nonlocal done
        done += 1
        write_row.propose(value=name)
        if done % 100 == 0:
            kept = Row.objects.filter(value=name).order_by("-pk").values_list("pk", flat=True)[:KEPT]
            Row.objects.filter(value=name).exclude(pk__in=list(kept)).delete()
        return "commands"

    return act


def reads(name: str) -> Callable[[], str]:
    import raftlog
    from raftlog.testing.bench_site.models import Item

    def act() -> str:
        with raftlog.linearizable():
            Item.objects.order_by("-pk").first()
        return "reads"

    return act


class Worker(threading.Thread):
    """Acts until told to end. What fails (its node is down, say) is counted, and tried again after a while."""

    def __init__(self, act: Callable[[], str], name: str, ending: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.act = act
        self.ending = ending
        self.done: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        from django.db import DatabaseError

        from raftlog.exceptions import RaftlogError

        pause = PAUSE
        while not self.ending.wait(pause):
            try:
                self.done[self.act()] += 1
                pause = PAUSE
            except (RaftlogError, DatabaseError) as error:
                self.failed[type(error).__name__] += 1
                pause = 0.2


def main() -> None:
    name, *options = sys.argv[1:]
    import django

    django.setup()
    ending, counting = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ending.set())
    signal.signal(signal.SIGUSR1, lambda number, frame: counting.set())
    held: Held | None = None
    workers = [
        Worker(make(f"{name}-{number}"), f"{name}-{number}", ending)
        for number, make in enumerate((transactions, transactions, commands, reads))
    ]
    for worker in workers:
        worker.start()
    while not ending.wait(1.0):
        if dead := [worker.name for worker in workers if not worker.is_alive()]:
            sys.exit(f"{', '.join(dead)} ended by an error of its own, which stands above")
        if counting.is_set() and "--objects" in options and held is None:
            held = Held()
    grown = held.grown() if held else []
    for worker in workers:
        worker.join(30)
    done, failed = collections.Counter[str](), collections.Counter[str]()
    for worker in workers:
        done.update(worker.done)
        failed.update(worker.failed)
    print(json.dumps({"done": done, "failed": failed, "grown": grown}), flush=True)


if __name__ == "__main__":
    main()
