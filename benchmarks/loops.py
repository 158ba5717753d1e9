"""Load: closed loops, open loops and pipelines, out of worker processes, for any system.

Clients are threads, dealt out over worker processes alike for every system, so that no system is limited by the
interpreter that makes the load; what the workers themselves used is in the result. All begin at one moment.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

from benchmarks.systems import Client, Pipelines, Target

CLIENTS_IN_A_PROCESS = 16
MAX_PROCESSES = 8
KEYS = 100  # of each client, put in turns
START_TIMEOUT = 120.0  # seconds for all workers to be connected
PATIENCE = 60.0  # seconds beyond the time of the measurement
HEAD_START = 0.2  # seconds between "all are ready" and the beginning
AFTER_ERROR = 0.001  # seconds: a system that refuses at once is not asked in a busy loop

Operation = Literal["put", "get"]


class LoadFailed(Exception):
    """A worker could not connect, or did not finish: there is no figure."""


class Histogram:
    """Durations in buckets 1 % wide, from a microsecond on. Not thread-safe: one for each thread, then merged."""

    _WIDTH = math.log(1.01)
    _SMALLEST = 1e-6  # seconds

    def __init__(self) -> None:
        self.buckets: collections.Counter[int] = collections.Counter()
        self.count = 0
        self.total = 0.0  # seconds
        self.longest = 0.0  # seconds, exact

    def add(self, seconds: float) -> None:
        self.buckets[int(math.log(seconds / self._SMALLEST) / self._WIDTH) if seconds > self._SMALLEST else 0] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def merge(self, other: Histogram) -> None:
        self.buckets.update(other.buckets)
        self.count += other.count
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0 to 1) of all durations do not exceed, within 1 %. Raises ValueError of nothing."""
        if not self.count:
            raise ValueError("there are no durations")
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                upper = self._SMALLEST * math.exp((bucket + 1) * self._WIDTH)
                return min(upper, self.longest)
        return self.longest


@dataclasses.dataclass
class Measured:
    """What clients saw, added up.

    Args:
        count: operations acknowledged before the time was over.
        seconds: how long that was.
        latencies: of all operations that were begun in time. In an open loop from when each was due; those that
            never got their turn count with what they had waited by then.
        errors: what puts and gets raised, with how often.
        offered: operations a second that were to be begun (open loop).
        cpu: seconds of CPU time of each worker process.
    """

    count: int = 0
    seconds: float = 0.0
    latencies: Histogram = dataclasses.field(default_factory=Histogram)
    errors: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    offered: float = 0.0
    cpu: list[float] = dataclasses.field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0

    @property
    def generator_share(self) -> float:
        """The CPU time of the busiest worker, as a share of one core: near 1, the load generator was the limit."""
        return max(self.cpu, default=0.0) / self.seconds if self.seconds else 0.0

    def ms(self, share: float) -> float:
        """A quantile of the latencies in milliseconds; `share` 1 is the longest. Raises ValueError of nothing."""
        return 1000 * (self.latencies.longest if share >= 1 else self.latencies.quantile(share))

    @property
    def trouble(self) -> str:
        """For a row's note: "" where every operation succeeded."""
        kinds = ", ".join(f"{count} × {kind}" for kind, count in self.errors.most_common(3))
        return f"failed: {kinds}" if kinds else ""

    def merge(self, other: Measured) -> None:
        """Add what another worker saw in the same time."""
        self.count += other.count
        self.seconds = max(self.seconds, other.seconds)
        self.latencies.merge(other.latencies)
        self.errors.update(other.errors)
        self.cpu += other.cpu


def closed_loop(
    target: Target, clients: int, seconds: float, size: int = 100, *, operation: Operation = "put"
) -> Measured:
    """Clients of one operation at a time each, as fast as they are answered. Raises LoadFailed."""
    return _in_workers([_Closed(target, n, seconds, size, operation) for n in _shares(clients)])


def open_loop(
    target: Target, rate: float, clients: int, seconds: float, size: int = 100, *, operation: Operation = "put"
) -> Measured:
    """`rate` operations a second in all, evenly, whether the earlier ones were answered or not. Raises LoadFailed.

    Latencies count from when an operation was due, so that waiting for a client to be free is part of it.
    """
    jobs: list[_Job] = []
    first = 0
    for n in _shares(clients):
        jobs.append(_Open(target, n, seconds, size, operation, first, clients, rate))
        first += n
    measured = _in_workers(jobs)
    measured.offered = rate
    return measured


def pipelined(target: Target, seconds: float, size: int = 100, *, workers: int = 1) -> Measured:
    """Many puts outstanding in each worker process, by the target's own pipeline(). Raises LoadFailed."""
    if not isinstance(target, Pipelines):
        raise LoadFailed(f"{type(target).__name__} cannot have many operations outstanding")
    return _in_workers([_Pipeline(target, 1, seconds, size) for _ in range(workers)])


def _shares(clients: int) -> list[int]:
    """How many clients each worker process has."""
    processes = min(MAX_PROCESSES, -(-clients // CLIENTS_IN_A_PROCESS))
    return [clients // processes + (number < clients % processes) for number in range(processes)]


# In the process that measures


def _in_workers(jobs: Sequence[_Job]) -> Measured:
    """A process for each job, all beginning at one moment."""
    context = multiprocessing.get_context("spawn")
    workers = []
    try:
        for number, job in enumerate(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker_main, args=(theirs, job, f"w{number}"), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        for _, pipe in workers:
            _receive(pipe, START_TIMEOUT)
        begin = time.monotonic() + HEAD_START
        for _, pipe in workers:
            pipe.send(begin)
        whole = Measured()
        for _, pipe in workers:
            whole.merge(_receive(pipe, jobs[0].seconds + PATIENCE))
        return whole
    finally:
        for process, pipe in workers:
            pipe.close()
            process.kill()
            process.join()


def _receive(pipe: Connection, timeout: float) -> Any:
    """Raises LoadFailed with what the worker says went wrong."""
    try:
        if not pipe.poll(timeout):
            raise LoadFailed(f"a worker said nothing within {timeout:g} s")
        found = pipe.recv()
    except EOFError as error:
        raise LoadFailed("a worker ended without a result") from error
    if isinstance(found, str):
        raise LoadFailed(found)
    return found


# In a worker


def _worker_main(pipe: Connection, job: _Job, name: str) -> None:
    try:
        begin_at = job.prepare(name)
        pipe.send(True)
        begin = pipe.recv()
        cpu = time.process_time()
        measured = begin_at(begin)
        measured.cpu = [time.process_time() - cpu]
        pipe.send(measured)
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


@dataclasses.dataclass
class _Job:
    target: Target
    clients: int
    seconds: float
    size: int

    def prepare(self, name: str) -> Callable[[float], Measured]:
        """Connect; returns a function that works from a moment on."""
        raise NotImplementedError


@dataclasses.dataclass
class _Pipeline(_Job):
    def prepare(self, name: str) -> Callable[[float], Measured]:
        assert isinstance(self.target, Pipelines)
        target = self.target
        target.pipeline(0.05, self.size, name)  # opens connections and sessions

        def work(begin: float) -> Measured:
            time.sleep(max(0.0, begin - time.monotonic()))
            before = time.monotonic()
            count = target.pipeline(self.seconds, self.size, name)
            return Measured(count, time.monotonic() - before)

        return work


@dataclasses.dataclass
class _Closed(_Job):
    operation: Operation = "put"

    def prepare(self, name: str) -> Callable[[float], Measured]:
        begun: list[float] = []
        go = threading.Event()
        ready = threading.Barrier(self.clients + 1)
        threads = [_ClientThread(self, number, name, ready, go, begun) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            ready.wait(START_TIMEOUT)
        except threading.BrokenBarrierError:
            causes = [thread.failure for thread in threads if thread.failure is not None]
            raise (causes or [LoadFailed("a client did not connect in time")])[0] from None

        def work(begin: float) -> Measured:
            begun.append(begin)
            go.set()
            whole = Measured(seconds=self.seconds)
            for thread in threads:
                thread.join()
                if thread.failure is not None:
                    raise thread.failure
                whole.merge(thread.measured)
            return whole

        return work

    def due(self, number: int, turn: int, begin: float) -> float:
        """When a client's operation is due; in a closed loop, when it is free."""
        return begin

    @property
    def is_paced(self) -> bool:
        return False


@dataclasses.dataclass
class _Open(_Closed):
    first: int = 0  # number of this worker's first client among all
    all_clients: int = 1
    rate: float = 1.0

    def due(self, number: int, turn: int, begin: float) -> float:
        return begin + (self.first + number + turn * self.all_clients) / self.rate

    @property
    def is_paced(self) -> bool:
        return True


class _ClientThread(threading.Thread):
    def __init__(
        self, job: _Closed, number: int, worker: str, ready: threading.Barrier, go: threading.Event, begun: list[float]
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.job = job
        self.number = number
        self.keys = [f"{worker}-{number}-{key}" for key in range(KEYS)]
        self.ready = ready
        self.go = go
        self.begun = begun
        self.measured = Measured(seconds=job.seconds)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            client = self.job.target.connect()
            value = b"x" * self.job.size
            # Uncounted: opens connections and sessions, and a get finds something.
            for key in self.keys[: 3 if self.job.operation == "put" else KEYS]:
                client.put(key, value)
            self.ready.wait(START_TIMEOUT)
            self.go.wait()
            self.work(client, value)
            client.close()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for this one
            self.failure = error
            self.ready.abort()

    def work(self, client: Client, value: bytes) -> None:
        job, measured, keys = self.job, self.measured, self.keys
        begin = self.begun[0]
        end = begin + job.seconds

        def get(turn: int) -> object:
            return client.get(keys[turn % KEYS])

        def put(turn: int) -> None:
            # Another value each time: one that is there already is no change, which some systems need not sync.
            client.put(keys[turn % KEYS], (b"%08d" % turn + value)[: len(value)])

        do: Callable[[int], object] = get if job.operation == "get" else put
        time.sleep(max(0.0, begin - time.monotonic()))
        turn = 0
        while (now := time.monotonic()) < end:
            started = job.due(self.number, turn, begin) if job.is_paced else now
            if started >= end:
                break
            if started > now:
                time.sleep(started - now)
            try:
                do(turn)
            except Exception as error:  # noqa: BLE001 - whatever a system's client raises is counted, and shown
                measured.errors[f"{type(error).__name__}: {error}"[:100]] += 1
                time.sleep(AFTER_ERROR)
            else:
                ended = time.monotonic()
                measured.latencies.add(ended - started)
                measured.count += ended <= end
            turn += 1
        if job.is_paced:  # what was due, and never got its turn
            while (due := job.due(self.number, turn, begin)) < end:
                measured.latencies.add(end - due)
                turn += 1
