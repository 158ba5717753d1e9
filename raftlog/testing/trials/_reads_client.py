"""An application process of the trial `reads`, beside one node: threads that write and read registers until stdin ends.

What they saw stands in the file that its standard input names, one operation a line (raftlog.testing.history).
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from raftlog.runtime import clock
from raftlog.testing.history import History

STALENESS = 0.5  # seconds, of the reads under max_staleness()
READ_TIMEOUT = 1.0  # seconds
THINK = 0.01  # seconds between two operations of a thread, at most


class Work(msgspec.Struct):
    """What the trial tells it, as one line of JSON."""

    node: str
    seed: int
    threads: int
    registers: list[str]
    record: str
    barrier: bool  # False: the mutation, reads are of the local database as it stands


class Worker:
    """One thread. Its writes are unlike those of all others, so that a value says which write it came from."""

    def __init__(self, work: Work, number: int) -> None:
        self.work = work
        self.name = f"{work.node}{number}"
        self.rng = random.Random(f"{work.seed}/{self.name}")
        self.history = History()
        self.refused = 0
        self._base = ((ord(work.node[0]) - ord("a") + 1) * 100 + number) * 10**8
        self._writes = 0

    def run(self, is_over: threading.Event) -> None:
        from django.db import connections

        try:
            while not is_over.wait(self.rng.uniform(0, THINK)):
                register = self.rng.choice(self.work.registers)
                chance = self.rng.random()
                if chance < 0.3:
                    self._write(register)
                else:
                    self._read(register, "read" if chance < 0.85 else "bounded_read")
        finally:
            connections.close_all()

    def _write(self, register: str) -> None:
        import raftlog
        from raftlog.testing.torture_site.models import Pair

        self._writes += 1
        value = self._base + self._writes
        operation = self.history.invoke(self.name, "write", value, key=register, at=clock.monotonic())
        try:
            Pair.objects.filter(pk=register).update(value=str(value))
        except (raftlog.NotProposed, raftlog.TransactionConflict):
            self.refused += 1
            self.history.forget(operation)
        except raftlog.OutcomeUnknown:
            pass  # it stays without an answer: it may take effect at any time, or never
        else:
            self.history.complete(operation, None, at=clock.monotonic())

    def _read(self, register: str, action: str) -> None:
        import raftlog
        from raftlog.testing.torture_site.models import Pair

        operation = self.history.invoke(self.name, action, key=register, at=clock.monotonic())
        try:
            with self._barrier(action):
                value = int(Pair.objects.values_list("value", flat=True).get(pk=register))
        except (raftlog.ReadNotConfirmed, raftlog.NodeUnavailable):
            self.refused += 1
            self.history.forget(operation)
        else:
            self.history.complete(operation, value, at=clock.monotonic())

    def _barrier(self, action: str) -> Any:
        import raftlog

        if not self.work.barrier:
            return contextlib.nullcontext()
        if action == "read":
            return raftlog.linearizable(timeout=READ_TIMEOUT)
        return raftlog.max_staleness(STALENESS, timeout=READ_TIMEOUT)


def main() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=Work)
    import django

    django.setup()
    is_over = threading.Event()
    workers = [Worker(work, number) for number in range(work.threads)]
    threads = [threading.Thread(target=worker.run, args=(is_over,), name=worker.name) for worker in workers]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    is_over.set()
    for thread in threads:
        thread.join()
    operations = [operation for worker in workers for operation in worker.history]
    Path(work.record).write_text(History(operations).to_json_lines())
    sys.stdout.write(f"{sum(worker.refused for worker in workers)}\n")
    sys.stdout.flush()
    os._exit(0)  # what is left are daemons and sockets


if __name__ == "__main__":
    main()
