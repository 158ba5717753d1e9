"""An application process beside a node: creates accounts and asks how that ended, as its standard input says.

A line is JSON, [what, argument]; the answer is a line of JSON on standard output.
"""

import json
import sys

import django

from raftlog.runtime import clock


def create(name):
    from django.db import transaction

    from demo_site.bank.models import Account

    with transaction.atomic():
        Account.objects.create(name=name, balance=1, paid_in=1)


def outcome(argument):
    import raftlog

    proposal_id, timeout = argument
    return raftlog.outcome(proposal_id, timeout)


def exists(name):
    from demo_site.bank.models import Account

    return Account.objects.filter(name=name).count()


def answer(what, argument):
    from django.db.utils import OperationalError

    import raftlog

    began = clock.monotonic()
    try:
        result = {"value": {"create": create, "outcome": outcome, "exists": exists}[what](argument)}
    except OperationalError as error:
        result = {
            "error": type(error).__name__,
            "is_unknown": isinstance(error, raftlog.OutcomeUnknown),
            "is_nothing": isinstance(error, raftlog.NotProposed),
            "proposal_id": getattr(error, "proposal_id", ""),
            "text": str(error),
        }
    return result | {"took": clock.monotonic() - began}


def main():
    django.setup()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(*json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
