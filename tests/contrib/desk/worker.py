"""An application process beside a node: `python -m tests.contrib.desk.worker NAME COUNT`.

It issues invoices by transactions and by commands in turn, whatever happens to nodes, counts what was acknowledged, and
ends once its flag is "goodbye". It prints what it knows as JSON.
"""

import json
import sys

import django

from raftlog.runtime import clock

PATIENCE = 60  # seconds


def work(name, count):
    from django.db import OperationalError, transaction

    import raftlog
    from raftlog.contrib import counters, flags, sequences
    from tests.contrib.desk.commands import issue
    from tests.contrib.desk.models import Invoice

    told = []
    flags.on_change("greeting")(lambda value, before: told.append(value))
    flags.watch()

    @raftlog.retry_on_conflict
    def by_transaction(token):
        with transaction.atomic():
            return Invoice.objects.create(token=token, number=sequences.next_number("invoice")).number

    def by_command(token):
        return issue.with_options(timeout=5).propose(token=token)

    acknowledged, unsure, tries = {}, 0, 0
    deadline = clock.monotonic() + PATIENCE
    while len(acknowledged) < count and clock.monotonic() < deadline:
        tries += 1
        token = f"{name}-{tries}"
        try:
            acknowledged[token] = (by_command if tries % 2 else by_transaction)(token)
        except (raftlog.ProposalError, OperationalError) as error:
            unsure += isinstance(error, raftlog.OutcomeUnknown)
            clock.sleep(0.05)
        else:
            counters.add("issued")
    while flags.get("greeting") != "goodbye" and clock.monotonic() < deadline:
        clock.sleep(0.01)
    return {"acknowledged": acknowledged, "unsure": unsure, "greeting": flags.get("greeting"), "told": told}


if __name__ == "__main__":
    django.setup()
    print(json.dumps(work(sys.argv[1], int(sys.argv[2]))), flush=True)
