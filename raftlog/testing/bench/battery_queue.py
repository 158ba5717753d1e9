"""The task queue beside Celery and huey on Redis: 1,000 tasks that do nothing, enqueued, run, and their results kept.

Client and worker are a process each, for all three, and the worker runs one task at a time. Redis as it is configured,
which mostly means: not replicated, and not synced to the disk at each write.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Callable

from raftlog.runtime import clock
from raftlog.testing.bench import redis_side
from raftlog.testing.bench.batteries import Row, rate
from raftlog.testing.processes import LAUNCHER, ProcessCluster

HERE = "raftlog.testing.bench.battery_queue"
TASKS = 1_000
WARM_UP = 20
TIMEOUT = 120.0  # seconds for a round of them


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    sides = [_side(cluster, name, seconds) for name in ("celery", "huey")]
    rows: list[Row] = []
    for words, arguments in (
        (f"{TASKS} no-op tasks, enqueued one by one and completed", {"name": "noop", "one_by_one": True}),
        (f"{TASKS} no-op tasks, enqueued in one transaction and completed", {"name": "noop", "one_by_one": False}),
        (f"{TASKS} transactional tasks that write a row each", {"name": "write_row", "one_by_one": False}),
    ):
        ours = rate(cluster, f"{HERE}:ours", seconds, arguments=arguments)
        beside = sides if arguments["name"] == "noop" else [("", None)]
        rows += [(words, "tasks", ours, theirs, figure) for theirs, figure in beside]
    return rows


def _side(cluster: ProcessCluster, name: str, seconds: float) -> tuple[str, float | None]:
    if importlib.util.find_spec(name) is None:
        return f"{name} (not measured: not installed)", None
    try:
        return redis_side.side(f"{name} on Redis", lambda: rate(cluster, f"{HERE}:{name}", seconds))
    finally:
        if not redis_side.problem():
            _forget_huey()


def _forget_huey() -> None:
    """Its keys begin with a prefix of its own."""
    with redis_side.connect() as client:
        for key in client.scan_iter(match=f"huey.*{redis_side.PREFIX.strip(':')}*"):
            client.delete(key)


# Actions of an application process


def ours(name: str, one_by_one: bool) -> Callable[[], int]:
    from raftlog.contrib.queue import QueuedTask
    from raftlog.testing.bench_site.batteries import tasks

    task = getattr(tasks, name)
    _start_worker("-m", "django", "raft", "worker", "--progress", "3600")

    def enqueue_and_wait(count: int) -> None:
        if one_by_one:
            rows = [task.enqueue(number=number) for number in range(count)]
        else:
            rows = task.enqueue_many({"number": number} for number in range(count))
        keys = sorted(row.pk for row in rows)
        done = QueuedTask.objects.filter(pk__range=(keys[0], keys[-1]), state="SUCCESSFUL")
        _wait_until(lambda: done.count() == count)

    return _rounds(enqueue_and_wait)


def celery() -> Callable[[], int]:
    from raftlog.testing.bench.celery_side import noop

    quiet = ("-l", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
    _start_worker("-m", "celery", "-A", "raftlog.testing.bench.celery_side", "worker", "-P", "solo", *quiet)

    def enqueue_and_wait(count: int) -> None:
        results = [noop.delay(number) for number in range(count)]
        _wait_until(results[-1].ready)
        _wait_until(lambda: all(result.ready() for result in results))

    return _rounds(enqueue_and_wait)


def huey() -> Callable[[], int]:
    from raftlog.testing.bench.huey_side import noop

    _start_worker("-m", "huey.bin.huey_consumer", "raftlog.testing.bench.huey_side.app", "-w", "1", "-q", "-n")

    def enqueue_and_wait(count: int) -> None:
        results = [noop(number) for number in range(count)]
        _wait_until(lambda: results[-1]() is not None)
        for result in results[:-1]:
            result(blocking=True, timeout=TIMEOUT)

    return _rounds(enqueue_and_wait)


def _rounds(enqueue_and_wait: Callable[[int], None]) -> Callable[[], int]:
    """The first round, which is not counted, is a small one: until the worker is there."""
    sizes = itertools.chain([WARM_UP], itertools.repeat(TASKS))

    def one_round() -> int:
        size = next(sizes)
        enqueue_and_wait(size)
        return size

    return one_round


def _start_worker(*arguments: str) -> None:
    """It ends with this thread, which is the main one."""
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _wait_until(reached: Callable[[], bool]) -> None:
    deadline = clock.monotonic() + TIMEOUT
    while not reached():
        if clock.monotonic() > deadline:
            raise TimeoutError(f"the tasks were not completed within {TIMEOUT:g} s")
        clock.sleep(0.01)
