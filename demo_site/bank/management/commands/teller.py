"""`manage.py teller`: an app process of one host, which pays what it is told, for `manage.py demo`.

A line of standard input is a payment as JSON, a line of standard output how it ended: "paid", "refused" or why not.
"""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db import OperationalError

from demo_site.bank.commands import NotEnoughMoney
from demo_site.bank.payments import pay
from raftlog.runtime import clock

PATIENCE = 60.0  # seconds until a payment is given up, where this host's node is down or there is no majority
PAUSE = 0.05


class Command(BaseCommand):
    help = "Make the payments that standard input names, with plain transactions (used by `manage.py demo`)."

    def handle(self, *args: Any, **options: Any) -> None:
        for line in sys.stdin:
            self.stdout.write(answer(json.loads(line)))
            self.stdout.flush()


def answer(payment: dict[str, Any]) -> str:
    deadline = clock.monotonic() + PATIENCE
    while True:
        try:
            pay(**payment)
        except NotEnoughMoney:
            return "refused"
        except OperationalError as error:  # a conflict, no node, no majority, an unknown outcome: all may pay again
            if clock.monotonic() > deadline:
                return f"{type(error).__name__}: {error}"
            clock.sleep(PAUSE)
        else:
            return "paid"
