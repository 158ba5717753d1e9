"""The figures of `raft bench`: three real nodes measured against the floor of the same run (design section 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from raftlog.testing.bench.client import Load, Measured
from raftlog.testing.bench.floor import consumer_round_trip, sync_of_a_small_append
from raftlog.testing.bench.together import run_together, shares
from raftlog.testing.processes import NodeProcess, ProcessCluster

SETTINGS = "raftlog.testing.bench_site.settings"
MAX_THREADS_IN_A_PROCESS = 32  # beyond it, the clients' own interpreter lock would be what is measured
BULK_ROWS = 100

Tell = Callable[[str], None]


class Figure(msgspec.Struct):
    """One row of the table. `p50_ms` and `p99_ms` are None where proposals are not waited for one by one."""

    name: str
    clients: int
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    unit: str = "commands"
    goal: str = ""
    ratio: float | None = None  # of the median to the floor, where the goal is one
    reached: bool | None = None  # None: there is no goal for it


class Report(msgspec.Struct):
    nodes: int
    value_bytes: int
    seconds: float
    consumer_round_trip_ms: float
    fdatasync_ms: float
    floor_ms: float
    figures: list[Figure]


def measure(directory: Path, *, nodes: int, seconds: float, clients: list[int], value_bytes: int, tell: Tell) -> Report:
    """Takes about (4 + number of client counts) × (seconds + 2) seconds. Raises RaftlogError."""
    tell("measuring the floor: one consumer round trip, one fdatasync")
    round_trip = consumer_round_trip(min(seconds, 2.0)) * 1000
    sync = sync_of_a_small_append(directory, min(seconds, 2.0)) * 1000
    figures: list[Figure] = []
    log_loads = [
        (f"{count} blocking client{'s' if count > 1 else ''}, log only", Load("blocking", seconds, count, value_bytes))
        for count in clients
    ]
    log_loads.append(("pipelined, log only", Load("pipelined", seconds, 1, value_bytes)))
    database_loads = [
        ("one row a command, applied through the ORM", Load("rows", seconds, 64, value_bytes)),
        (f"{BULK_ROWS} rows a command, bulk_create", Load("bulk", seconds, 8, value_bytes, batch=BULK_ROWS)),
    ]
    for machine, loads in (("log", log_loads), ("database", database_loads)):
        tell(f"starting {nodes} nodes with fsync on, state machine: {machine}")
        with StartedCluster(nodes, directory / machine, machine) as cluster:
            leader = cluster[cluster.wait_for_leader(60)]
            for name, load in loads:
                tell(f"{name}: {seconds:g} s")
                figures.append(summarize(name, load, run_clients(leader, load)))
                cluster.wait_all_applied(120)
    judge(figures, round_trip + sync)
    return Report(
        nodes, value_bytes, seconds, round(round_trip, 4), round(sync, 4), round(round_trip + sync, 4), figures
    )


class StartedCluster:
    """Nodes that run, with a leader's tables made where they have a database, as a context manager."""

    def __init__(self, nodes: int, directory: Path, machine: str) -> None:
        options = {"CLUSTER": "bench", "STATE_MACHINE": machine, "PROPOSAL_TIMEOUT": 20}
        self.cluster = ProcessCluster(nodes, directory, settings_module=SETTINGS, options=options)
        self.has_database = machine == "database"

    def __enter__(self) -> ProcessCluster:
        try:
            self.cluster.start()
            if self.has_database:
                self.cluster[self.cluster.wait_for_leader(60)].manage("migrate", "--run-syncdb", "--verbosity=0")
        except BaseException:
            self.cluster.close()
            raise
        return self.cluster

    def __exit__(self, *exc_info: object) -> None:
        self.cluster.close()


def run_clients(node: NodeProcess, load: Load) -> list[Measured]:
    """Client processes on the host of `node`, all working at the same time."""
    processes = -(-load.threads // MAX_THREADS_IN_A_PROCESS)
    jobs = [(node.environment, msgspec.structs.replace(load, threads=n)) for n in shares(load.threads, processes)]
    return run_together("raftlog.testing.bench.client", jobs, Measured)


def summarize(name: str, load: Load, measured: list[Measured]) -> Figure:
    """Counts add up over client processes; quantiles are of all latencies together."""
    per_second = sum(one.count / one.seconds for one in measured)
    latencies = sorted(latency for one in measured for latency in one.latencies)
    return Figure(
        name=name,
        clients=load.threads,
        per_second=round(per_second, 1),
        p50_ms=in_ms(quantile(latencies, 0.5)),
        p99_ms=in_ms(quantile(latencies, 0.99)),
        unit="rows" if load.mode == "bulk" else "commands",
    )


def quantile(ascending: list[float], share: float) -> float | None:
    """The value that `share` of all do not exceed; None of nothing."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None


def in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


# (name begins with, what it says, lower bound per second)
THROUGHPUT_GOALS = (
    ("64 blocking", 12_000),
    ("pipelined", 100_000),
    ("one row a command", 4_000),
    (f"{BULK_ROWS} rows", 15_000),
)


def judge(figures: Iterable[Figure], floor_ms: float) -> None:
    """Fill in goals and whether they were reached (design section 10)."""
    for figure in figures:
        if figure.name.startswith("1 blocking") and figure.p50_ms is not None:
            figure.goal = "p50 ≤ 1 ms and ≤ 2 × the floor"
            figure.ratio = round(figure.p50_ms / floor_ms, 2)
            figure.reached = figure.p50_ms <= 1 and figure.ratio <= 2
        for beginning, bound in THROUGHPUT_GOALS:
            if figure.name.startswith(beginning):
                figure.goal = f"≥ {bound:,} {figure.unit}/s"
                figure.ratio = round(figure.per_second / bound, 2)
                figure.reached = figure.per_second >= bound


def as_dict(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found
