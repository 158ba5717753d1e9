"""One client process of the benchmark: `python -m raftlog.testing.bench.client`, a Load as JSON on stdin.

Its environment is that of a node of the cluster, through whose local socket it proposes, as a web worker
of that host would. It prints "ready" once connected, waits for a line, works, and prints a Measured as JSON.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Literal

import msgspec

from raftlog.consensus.entries import COMMAND, client_payload
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, Outcome, Proposer

TIMEOUT = 20.0  # seconds for one proposal

Mode = Literal["blocking", "pipelined", "rows", "bulk"]


class Load(msgspec.Struct):
    """What to do: `threads` each with one proposal at a time, or one thread with `window` of them under way."""

    mode: Mode
    seconds: float
    threads: int = 1
    value_bytes: int = 100
    window: int = 8192
    batch: int = 256  # proposals handed over in one call, where pipelined; rows in one command, where bulk


class Measured(msgspec.Struct):
    """`count` proposals (or rows, where bulk) were applied in `seconds`; latencies in seconds, where blocking."""

    count: int
    seconds: float
    latencies: list[float] = []


class BenchmarkFailed(Exception):
    """A proposal of the benchmark was not applied: figures would be worthless."""


class Payloads:
    """Payloads of one session, for nodes that run without a database. For one thread."""

    def __init__(self, value_bytes: int) -> None:
        self._session = os.urandom(16)
        self._sequence = 0
        self._body = b"x" * value_bytes

    def next(self) -> bytes:
        self._sequence += 1
        return client_payload(COMMAND, self._session, self._sequence, 0, self._body)


def log_proposals(proposer: Proposer, load: Load) -> Callable[[], int]:
    """A function that proposes one payload and waits until it is applied; returns 1."""
    payloads = Payloads(load.value_bytes)
    answers: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()

    def propose() -> int:
        proposer.propose([payloads.next()], TIMEOUT, answers.put)
        return check_applied(answers.get())

    return propose


def row_commands(load: Load) -> Callable[[], int]:
    """A function that proposes a command which writes one row; returns 1."""
    from raftlog.testing.bench_site.commands import write_row

    value = "x" * load.value_bytes

    def propose() -> int:
        write_row.propose(value=value)
        return 1

    return propose


def bulk_commands(load: Load) -> Callable[[], int]:
    """A function that proposes a command which writes `batch` rows at once; returns how many."""
    from raftlog.testing.bench_site.commands import write_rows

    value = "x" * load.value_bytes

    def propose() -> int:
        return int(write_rows.propose(value=value, count=load.batch))

    return propose


def check_applied(outcomes: list[Outcome]) -> int:
    for outcome in outcomes:
        if outcome.status != APPLIED:
            raise BenchmarkFailed(f"a proposal ended with status {outcome.status}: {outcome.result!r}")
    return len(outcomes)


class _Worker(threading.Thread):
    """Does its action over and over until the time is over, which begins for all workers together."""

    def __init__(self, number: int, action: Callable[[], int], seconds: float, start: threading.Barrier) -> None:
        super().__init__(name=f"client-{number}")
        self.action = action
        self.seconds = seconds
        self.start_together = start
        self.warms_up = False
        self.count = 0
        self.latencies: list[float] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error = error
            self.start_together.abort()
            raise

    def work(self) -> None:
        if self.warms_up:
            self.action()
        self.start_together.wait()
        before = clock.monotonic()
        end = before + self.seconds
        while before < end:
            self.count += self.action()
            after = clock.monotonic()
            self.latencies.append(after - before)
            before = after


def run_blocking(
    actions: list[Callable[[], int]], seconds: float, on_ready: Callable[[], None] | None = None
) -> Measured:
    """Each action in a thread of its own, one call after the other, for `seconds`. Raises what an action raised.

    With `on_ready` each thread does its action once, uncounted; then it is called, and the time begins.
    """
    started_at = 0.0

    def start() -> None:
        nonlocal started_at
        if on_ready is not None:
            on_ready()
        started_at = clock.monotonic()

    barrier = threading.Barrier(len(actions), action=start)
    workers = [_Worker(number, action, seconds, barrier) for number, action in enumerate(actions)]
    for worker in workers:
        worker.warms_up = on_ready is not None
        worker.start()
    for worker in workers:
        worker.join()
    errors = [worker.error for worker in workers if worker.error is not None]
    # A broken barrier follows from another's failure.
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    latencies = [round(latency, 6) for worker in workers for latency in worker.latencies]
    return Measured(sum(worker.count for worker in workers), clock.monotonic() - started_at, latencies)


def run_pipelined(proposer: Proposer, load: Load) -> Measured:
    """One thread that keeps up to `window` payloads under way, handing over `batch` of them in each call."""
    payloads = Payloads(load.value_bytes)
    answers: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()
    started_at = clock.monotonic()
    end = started_at + load.seconds
    under_way = count = 0
    while (working := clock.monotonic() < end) or under_way:
        while working and under_way + load.batch <= load.window:
            proposer.propose([payloads.next() for _ in range(load.batch)], TIMEOUT, answers.put)
            under_way += load.batch
        applied = check_applied(answers.get())
        under_way -= applied
        count += applied
    return Measured(count, clock.monotonic() - started_at)


def main() -> None:
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    import django

    django.setup()
    from raftlog.host import local_proposer

    proposer = local_proposer()
    make: dict[str, Callable[[], Callable[[], int]]] = {
        "blocking": lambda: log_proposals(proposer, load),
        "pipelined": lambda: log_proposals(proposer, load),
        "rows": lambda: row_commands(load),
        "bulk": lambda: bulk_commands(load),
    }
    actions = [make[load.mode]() for _ in range(load.threads)]
    for action in actions:
        action()  # opens connections and sessions
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    measured = run_pipelined(proposer, load) if load.mode == "pipelined" else run_blocking(actions, load.seconds)
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")
    sys.stdout.flush()
    # What is left are daemons and sockets: nothing to wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
