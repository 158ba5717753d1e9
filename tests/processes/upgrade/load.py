"""An app process with the old code, beside a node: `python -m tests.processes.upgrade.load PREFIX`.

One thread proposes commands, one creates rows by the ORM, until standard input ends. Then prints what was acknowledged.
"""

import json
import sys
import threading

import django

from raftlog.exceptions import NotProposed, OutcomeUnknown
from raftlog.runtime import clock

TIMEOUT = 30.0  # seconds
PACE = 0.25  # seconds between two writes of a thread: the nodes need the processors to start


class Load:
    def __init__(self, prefix):
        self.prefix = prefix
        self.stopped = threading.Event()
        self.acknowledged, self.errors = [], []
        self.retries = 0

    def run(self, kind, write):
        """Names are used once each, so that one that was doubled would show as an IntegrityError."""
        number = 0
        while not self.stopped.is_set():
            name = f"{kind} {self.prefix} {number}"
            number += 1
            try:
                write(name)
            except NotProposed:
                self.retries += 1
                clock.sleep(0.02)
            except OutcomeUnknown:  # done or not: not acknowledged
                self.retries += 1
            except Exception as error:  # noqa: BLE001  (told by the test)
                self.errors.append(f"{name}: {type(error).__name__}: {error}")
                return
            else:
                self.acknowledged.append(name)
                clock.sleep(PACE)

    def command(self, name):
        from upgraded_shop.commands import add

        add.with_options(timeout=TIMEOUT).propose(name=name)

    def row(self, name):
        from upgraded_shop.models import Item

        Item.objects.create(name=name)


def main():
    django.setup()
    load = Load(sys.argv[1])
    threads = [threading.Thread(target=load.run, args=(work.__name__, work)) for work in (load.command, load.row)]
    for thread in threads:
        thread.start()
    sys.stdout.write("started\n")
    sys.stdout.flush()
    sys.stdin.read()
    load.stopped.set()
    for thread in threads:
        thread.join()
    report = {"acknowledged": load.acknowledged, "errors": load.errors, "retries": load.retries}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
