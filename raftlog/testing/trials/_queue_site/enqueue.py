"""An application process that enqueues: `python -m raftlog.testing.trials._queue_site.enqueue COUNT CHUNK EVERY`.

Each chunk is one transaction; every EVERYth task is transactional. One that is rolled back on purpose after each chunk
must leave nothing. Prints how many seconds it took.
"""

from __future__ import annotations

import sys

import django

from raftlog.runtime import clock

ROLLED_BACK = -1  # the number of tasks that must never be seen


class RollBack(Exception):
    """Nothing of the transaction is to stay."""


def main(count: int, chunk: int, every: int) -> None:
    began = clock.monotonic()
    for first in range(0, count, chunk):
        enqueue_surely(range(first, min(first + chunk, count)), every)
    print(f"{clock.monotonic() - began:.3f}")  # noqa: T201


def enqueue_surely(numbers: range, every: int) -> None:
    """Again while nothing was done; where the outcome is unknown, once it is known."""
    from django.db import OperationalError

    import raftlog

    while True:
        try:
            enqueue(numbers, every)
            return
        except raftlog.OutcomeUnknown as unknown:
            if was_committed(unknown.proposal_id):
                return
        except (raftlog.NotProposed, raftlog.TransactionConflict, OperationalError):
            clock.sleep(0.1)


def enqueue(numbers: range, every: int) -> None:
    from django.db import transaction

    from raftlog.testing.trials._queue_site.tasks import plain, stored

    try:
        with transaction.atomic():
            plain.enqueue(number=ROLLED_BACK)
            raise RollBack
    except RollBack:
        pass
    with transaction.atomic():
        plain.enqueue_many({"number": number} for number in numbers if number % every)
        stored.enqueue_many({"number": number} for number in numbers if number % every == 0)


def was_committed(proposal_id: str) -> bool:
    """Ask until it is known; the first entry of the next chunk settles what could still come."""
    from django.db import OperationalError

    import raftlog

    deadline = clock.monotonic() + 60
    while True:
        try:
            raftlog.outcome(proposal_id, timeout=1.0)
            return True
        except raftlog.OutcomeUnknown:
            if clock.monotonic() > deadline:
                raise
        except (raftlog.TransactionConflict, raftlog.SessionExpired):
            return False
        except OperationalError:
            clock.sleep(0.1)


if __name__ == "__main__":
    django.setup()
    main(*map(int, sys.argv[1:]))
