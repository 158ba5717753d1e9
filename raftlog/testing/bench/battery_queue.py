"""The task queue beside Celery and huey on Redis: tasks handed over, and tasks handed over and done by a worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raftlog.runtime import clock
from raftlog.testing.bench import queue_side, redis_side
from raftlog.testing.bench.batteries import Row, leader, rate
from raftlog.testing.processes import ProcessCluster

HERE = "raftlog.testing.bench.battery_queue"
BATCH = 100  # tasks that are under way at once
THREADS = 4  # of one worker process, and of the process that hands tasks over
TIMEOUT = 60.0  # seconds for one batch
CELERY = (
    f"celery --app raftlog.testing.bench.queue_side:celery --quiet worker --pool threads --concurrency {THREADS} "
    "--without-gossip --without-mingle --without-heartbeat --loglevel ERROR"
)
HUEY = (
    f"huey.bin.huey_consumer raftlog.testing.bench.queue_side.huey --quiet --workers {THREADS} --worker-type thread "
    "--no-periodic --delay 0.02"
)
WORKERS = {"Celery on Redis": CELERY.split(), "huey on Redis": HUEY.split()}


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    node = leader(cluster)
    enqueued = rate(cluster, f"{HERE}:enqueue", seconds, threads=THREADS)
    with _worker([*node.command, "raft", "worker", "--threads", str(THREADS)], node.environment):
        done = rate(cluster, f"{HERE}:enqueue_and_wait", seconds)
    rows: list[Row] = []
    for name, command in WORKERS.items():
        library = command[0].partition(".")[0]
        theirs, theirs_done = _theirs(cluster, library, command, seconds)
        beside = name if theirs is not None else f"{name} ({_problem(library)})"
        rows.append((f"enqueue(), {THREADS} threads", "tasks", enqueued, beside, theirs))
        rows.append(
            (f"{BATCH} enqueued together and done, a worker of {THREADS} threads", "tasks", done, beside, theirs_done)
        )
    return sorted(rows)


def _problem(library: str) -> str:
    return redis_side.problem() if queue_side.is_installed(library) else f"not measured: {library} is not installed"


def _theirs(
    cluster: ProcessCluster, library: str, command: Sequence[str], seconds: float
) -> tuple[float | None, float | None]:
    if _problem(library):
        return None, None
    try:
        arguments = {"library": library}
        enqueued = rate(cluster, f"{HERE}:enqueue_theirs", seconds, threads=THREADS, arguments=arguments)
        _empty(library)  # what nobody has done
        with _worker([sys.executable, "-m", *command], leader(cluster).environment):
            done = rate(cluster, f"{HERE}:enqueue_theirs_and_wait", seconds, arguments=arguments)
        return enqueued, done
    finally:
        _empty(library)


def _empty(library: str) -> None:
    if library == "huey":
        queue_side.huey.flush()
    redis_side.clean_up()


@contextmanager
def _worker(command: Sequence[str], environment: Any) -> Iterator[None]:
    """A worker process beside the cluster; what it prints is not of interest, unless it dies."""
    process = subprocess.Popen(
        command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Actions of an application process


def enqueue() -> Callable[[], int]:
    from raftlog.testing.bench_site.batteries.tasks import nothing

    def act() -> int:
        nothing.enqueue()
        return 1

    return act


def enqueue_and_wait() -> Callable[[], int]:
    """First the tasks of enqueue() that nobody has done yet are waited for, in the first call, which does not count."""
    from raftlog.contrib.queue import QueuedTask
    from raftlog.testing.bench_site.batteries.tasks import nothing

    def act() -> int:
        nothing.enqueue_many([{}] * BATCH)
        deadline = clock.monotonic() + TIMEOUT
        while QueuedTask.objects.exclude(state="SUCCESSFUL").exists():
            if clock.monotonic() > deadline:
                raise TimeoutError(f"{BATCH} tasks were not done within {TIMEOUT:g} s")
            clock.sleep(0.01)
        return BATCH

    return act


def enqueue_theirs(library: str) -> Callable[[], int]:
    hand_over = queue_side.celery_nothing.delay if library == "celery" else queue_side.huey_nothing

    def act() -> int:
        hand_over()
        return 1

    return act


def enqueue_theirs_and_wait(library: str) -> Callable[[], int]:
    def celery() -> int:
        results = [queue_side.celery_nothing.delay() for _ in range(BATCH)]
        for result in results:
            result.get(timeout=TIMEOUT)
        return BATCH

    def huey() -> int:
        results = [queue_side.huey_nothing() for _ in range(BATCH)]
        for result in results:
            result.get(blocking=True, timeout=TIMEOUT, max_delay=0.02)
        return BATCH

    return celery if library == "celery" else huey
