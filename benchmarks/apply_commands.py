"""What applying a command costs: one row a command through the ORM, in batches of 100, on SQLite and PostgreSQL.

    python benchmarks/apply_commands.py [--entries N] [--batch N] [--postgresql]

Prints microseconds an entry, and the same loop of creates in plain Django transactions as the floor.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()

    import django

    django.setup()
    from tests.replication import conftest

    if options.postgresql:
        with conftest.postgresql_database():
            measure(options.entries, options.batch)
    else:
        with tempfile.TemporaryDirectory() as folder, conftest.sqlite_database(Path(folder)):
            measure(options.entries, options.batch)


def measure(count: int, size: int) -> None:
    from django.db import connection, transaction

    from raftlog.replication.apply import DatabaseStateMachine
    from tests.replication.log import batch, opened
    from tests.replication.warehouse.commands import add_item, order
    from tests.replication.warehouse.models import Item, Order

    machine = DatabaseStateMachine("default")
    machine.apply(batch(opened().payloads, 1))
    item = Item.objects.create(id=1, name="there from the start")
    commands = ((add_item, lambda n: {"name": f"item {n}"}), (order, lambda n: {"item_id": 1, "quantity": n}))
    for command, arguments in commands:
        log = opened()
        log._sequence = machine.last_applied
        del log.payloads[:]
        for number in range(count):
            log.add(command, acknowledged_below=max(log._sequence + 1 - 2 * size, 0), **arguments(number))
        first = machine.last_applied + 1
        batches = [batch(log.payloads[at : at + size], first + at) for at in range(0, count, size)]
        started, busy = time.perf_counter(), time.process_time()
        for one in batches:
            machine.apply(one)
        took, busy = time.perf_counter() - started, time.process_time() - busy
        print(
            f"{connection.vendor}: {command.name}, batches of {size}: {took / count * 1e6:.1f} µs an entry, "
            f"{busy / count * 1e6:.1f} of CPU"
        )
    started, busy = time.perf_counter(), time.process_time()
    for start in range(0, count, size):
        with transaction.atomic():
            for number in range(start, start + size):
                Item.objects.create(id=10**9 + number, name=f"plain {number}")
    took, busy = time.perf_counter() - started, time.process_time() - busy
    print(
        f"{connection.vendor}: plain creates, {size} a transaction: {took / count * 1e6:.1f} µs each, "
        f"{busy / count * 1e6:.1f} of CPU"
    )
    assert Item.objects.count() == 2 * count + 1
    assert Order.objects.filter(item=item).count() == count


if __name__ == "__main__":
    main()
