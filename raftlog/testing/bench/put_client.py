"""One application process whose puts are followed: `python -m raftlog.testing.bench.put_client`, a Load on stdin.

Log only, one put at a time in each thread. See together.py; what it prints is a Followed.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
from collections.abc import Callable

import msgspec

from raftlog.runtime import clock
from raftlog.runtime.ports import Outcome, Proposer
from raftlog.testing.bench.client import TIMEOUT, Load, Measured, Payloads, check_applied, run_blocking


class Put(msgspec.Struct, array_like=True):
    """Seconds of the monotonic clock: when it was handed over, when the reader's thread heard the outcome, and when the
    caller's thread was awake."""

    index: int
    asked: float
    heard: float
    woken: float


class Followed(msgspec.Struct):
    """`cpu` in seconds and `switches` of context, of this process while it measured."""

    measured: Measured
    puts: list[Put]
    cpu: float
    switches: int


def followed_puts(proposer: Proposer, load: Load, puts: list[Put]) -> Callable[[], int]:
    """A function that puts once, waits, and adds a Put to `puts`; returns 1. For one thread."""
    payloads = Payloads(load.value_bytes)
    answers: queue.SimpleQueue[tuple[float, list[Outcome]]] = queue.SimpleQueue()

    def heard(outcomes: list[Outcome]) -> None:
        answers.put((clock.monotonic(), outcomes))

    def put() -> int:
        payload = payloads.next()
        asked = clock.monotonic()
        proposer.propose([payload], TIMEOUT, heard)
        moment, outcomes = answers.get()
        puts.append(Put(outcomes[0].index, asked, moment, clock.monotonic()))
        return check_applied(outcomes)

    return put


def main() -> None:
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    import django

    django.setup()
    from raftlog.host import local_proposer

    proposer = local_proposer()
    puts: list[Put] = []
    before = resource.getrusage(resource.RUSAGE_SELF)

    def on_ready() -> None:
        nonlocal before
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        puts.clear()
        before = resource.getrusage(resource.RUSAGE_SELF)

    actions = [followed_puts(proposer, load, puts) for _ in range(load.threads)]
    measured = run_blocking(actions, load.seconds, on_ready)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
    followed = Followed(measured, puts, cpu, switches)
    sys.stdout.write(msgspec.json.encode(followed).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)  # what is left are daemons and sockets: nothing to wait for


if __name__ == "__main__":
    main()
