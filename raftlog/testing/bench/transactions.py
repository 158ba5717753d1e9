"""The figures of `raft bench --transactions`: plain Django code on three real nodes, beside the stock backend.

The stock backend runs the same code on a SQLite file of its own, in WAL mode with synchronous=FULL: a commit is on one
disk before it returns, where raftlog's is on the disks of a majority. The two take turns, case by case, so that the
machine's moods meet both.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.testing.bench.figures import SETTINGS, Tell, in_ms, quantile
from raftlog.testing.bench.orm_client import Case, Work, Worked
from raftlog.testing.bench.stages import AppliedBatch, Stages, read_trace
from raftlog.testing.bench.together import run_together, shares
from raftlog.testing.processes import NodeProcess, ProcessCluster

CLIENT = "raftlog.testing.bench.orm_client"
THREADS_IN_A_PROCESS = 4
HUGE = 100_000  # rows of one bulk_create


class Side(msgspec.Struct):
    """One backend's part of a figure. Of a whole bulk_create, `per_second` counts rows."""

    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_ms: float  # of all processes, nodes included, for each transaction


class Figure(msgspec.Struct):
    """One row of the table."""

    name: str
    writers: int
    nodes: int  # on how many hosts the writers are
    stock: Side
    raft: Side
    throughput: float  # raft / stock
    longest_wait: float  # raft / stock
    goal: str = ""
    reached: bool | None = None


class ApplyCost(msgspec.Struct):
    """What a node that did not run the transactions spends on applying them."""

    rows_per_second: float
    row_us: float  # by the clock
    row_cpu_us: float
    reached: bool


class Report(msgspec.Struct):
    seconds: float
    figures: list[Figure]
    # Stage -> mean milliseconds of one create() by the only writer, on the leader's host
    stages: dict[str, float]
    # Process -> CPU milliseconds for each create(), with the most writers on one host
    cpu: dict[str, float]
    apply: ApplyCost


@dataclasses.dataclass(frozen=True)
class Plan:
    """One row to measure. `writers` may say rows a transaction by its case."""

    name: str
    case: Case
    writers: int
    nodes: int = 1
    rows: int = 1000
    at_least: float | None = None  # goal: raft's throughput over stock's
    longest: float | None = None  # goal: raft's longest wait over stock's


QUICK = (
    Plan("create()", "create", 1, at_least=0.5),
    Plan("create()", "create", 16, at_least=1.5, longest=0.1),
    Plan("bulk_create(1,000)", "bulk", 1),
    Plan("get() by key", "read", 1, at_least=1.0),
)
FULL = (
    Plan("create()", "create", 1, at_least=0.5),
    Plan("create()", "create", 4),
    Plan("create()", "create", 16, at_least=1.5, longest=0.1),
    Plan("create()", "create", 4, nodes=3),
    Plan("create()", "create", 16, nodes=3, at_least=1.5, longest=0.1),
    Plan("atomic(): 10 × create()", "ten", 1),
    Plan("atomic(): 10 × create()", "ten", 16),
    Plan("update(F()), a row each", "update", 16),
    Plan("update(F()), one row", "hot", 16),
    Plan("bulk_create(1,000)", "bulk", 1),
    Plan(f"bulk_create({HUGE:,})", "bulk", 1, rows=HUGE),
    Plan("get() by key", "read", 1, at_least=1.0),
    Plan("get() by key", "read", 4, at_least=1.0),
)


class Window(msgspec.Struct):
    """What one run of a case left behind."""

    start: float
    end: float
    worked: list[Worked]
    node_cpu: dict[str, float]


def measure(directory: Path, *, seconds: float, quick: bool, tell: Tell) -> Report:
    """Raises RaftlogError."""
    options = {"CLUSTER": "bench", "PROPOSAL_TIMEOUT": 120}
    trace = directory / "trace"
    environment = {"RAFTLOG_BENCH_TRACE": str(trace)}
    tell("starting 3 nodes with fsync on")
    windows: dict[Plan, Window] = {}
    figures = []
    with ProcessCluster(3, directory, settings_module=SETTINGS, options=options, environment=environment) as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(60)]
        leader.manage("migrate", "--run-syncdb", "--verbosity=0")
        stock = stock_environment(leader, directory / "stock.sqlite3")
        for plan in QUICK if quick else FULL:
            tell(f"{plan.name}, writers: {plan.writers}, on hosts: {plan.nodes}: {seconds:g} s, twice")
            beside = run_stock(stock, plan, seconds)
            windows[plan] = run_raft(cluster, leader, plan, seconds)
            figures.append(compare(plan, side(beside, plan), side(windows[plan], plan)))
        tell("one writer, stage by stage")
        traced = run_raft(cluster, leader, Plan("stages", "create", 1), seconds, traced=True)
    busiest = max((plan for plan in windows if plan.case == "create" and plan.nodes == 1), key=lambda p: p.writers)
    bulk = next(plan for plan in windows if plan.case == "bulk")
    follower = next(node for node in cluster if node is not leader)
    return Report(
        seconds,
        figures,
        stages(traced, read_trace(trace.with_suffix(f".{leader.node_id}"), traced.start, traced.end)),
        cpu_by_process(windows[busiest], leader),
        apply_cost(windows[bulk], read_trace(trace.with_suffix(f".{follower.node_id}"), 0, windows[bulk].end), bulk),
    )


def stock_environment(node: NodeProcess, database: Path) -> dict[str, str]:
    """Settings of an application on Django's own backend, its tables made."""
    environment = without_trace(node.environment) | {
        "RAFTLOG_BENCH_ENGINE": "django.db.backends.sqlite3",
        "RAFTLOG_DATABASE": str(database),
    }
    alone = NodeProcess(node.options, database.parent, node.command, environment)
    alone.environment = environment
    alone.manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks")
    return environment


def works(plan: Plan, writers: int, seconds: float, *, traced: bool) -> list[Work]:
    """The processes of so many writers on one host."""
    processes = -(-writers // THREADS_IN_A_PROCESS)
    return [Work(plan.case, seconds, n, rows=plan.rows, traced=traced) for n in shares(writers, processes)]


def run_stock(environment: Mapping[str, str], plan: Plan, seconds: float) -> Window:
    jobs = [(environment, work) for work in works(plan, plan.writers, seconds, traced=False)]
    return Window(0, 0, run_together(CLIENT, jobs, Worked), {})


def run_raft(
    cluster: ProcessCluster, leader: NodeProcess, plan: Plan, seconds: float, *, traced: bool = False
) -> Window:
    hosts = [leader, *(node for node in cluster if node is not leader)][: plan.nodes]
    jobs = [
        (without_trace(host.environment), work)
        for host, writers in zip(hosts, shares(plan.writers, plan.nodes), strict=False)
        for work in works(plan, writers, seconds, traced=traced)
    ]
    window = Window(0, 0, [], {})

    def on_ready() -> None:
        cluster.wait_all_applied(120)  # what the clients did to warm up
        window.start, window.node_cpu = clock.monotonic(), node_cpu(cluster)

    window.worked = run_together(CLIENT, jobs, Worked, on_ready)
    cluster.wait_all_applied(120)
    window.node_cpu = {name: cpu - window.node_cpu[name] for name, cpu in node_cpu(cluster).items()}
    window.end = clock.monotonic()
    return window


def without_trace(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != "RAFTLOG_BENCH_TRACE"}


def node_cpu(cluster: ProcessCluster) -> dict[str, float]:
    """Node id -> seconds of CPU time that its process has used (proc(5), stat)."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for node in cluster:
        fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
        found[node.node_id] = (int(fields[11]) + int(fields[12])) / ticks
    return found


# From windows to figures


def side(window: Window, plan: Plan) -> Side:
    latencies = sorted(latency for one in window.worked for latency in one.measured.latencies)
    if not latencies:
        raise RaftlogError(f"{plan.name}: no transaction ended; give more --seconds")
    size = plan.rows if plan.case == "bulk" else 1
    cpu = sum(one.cpu for one in window.worked) + sum(window.node_cpu.values())
    return Side(
        per_second=round(sum(one.measured.count / one.measured.seconds for one in window.worked) * size, 1),
        p50_ms=in_ms(quantile(latencies, 0.5)) or 0,
        p99_ms=in_ms(quantile(latencies, 0.99)) or 0,
        max_ms=in_ms(latencies[-1]) or 0,
        cpu_ms=round(1000 * cpu / len(latencies), 3),
    )


def compare(plan: Plan, stock: Side, raft: Side) -> Figure:
    figure = Figure(
        plan.name,
        plan.writers,
        plan.nodes,
        stock,
        raft,
        round(raft.per_second / stock.per_second, 2),
        round(raft.max_ms / stock.max_ms, 2),
    )
    goals = []
    if plan.at_least is not None:
        goals.append((f"≥ {plan.at_least:g} × per second", figure.throughput >= plan.at_least))
    if plan.longest is not None:
        goals.append((f"longest wait ≤ {plan.longest:g} ×", figure.longest_wait <= plan.longest))
    if goals:
        figure.goal = ", ".join(words for words, _ in goals)
        figure.reached = all(reached for _, reached in goals)
    return figure


def stages(traced: Window, batches: list[AppliedBatch]) -> dict[str, float]:
    """Mean milliseconds of each stage, over the transactions whose apply was alone in its batch."""
    found: Stages = traced.worked[0].stages
    pairs = [
        (asked, batch, answered)
        for asked, answered in found.proposals
        for batch in batches
        if asked <= batch.started and batch.ended <= answered
    ]
    if not pairs:
        raise RaftlogError("no commit could be followed through its node; give more --seconds")
    commit = sum(answered - asked for asked, answered in found.proposals)
    local = found.whole - found.turn - found.gather - found.rollback - commit
    count, followed = found.transactions, len(pairs)
    seconds: list[tuple[str, float]] = [
        ("execute and capture (ORM, SQL, triggers)", local / count),
        ("wait for the host's turn", found.turn / count),
        ("gather and encode the write set", found.gather / count),
        ("roll back", found.rollback / count),
        ("propose until committed", sum(batch.started - asked for asked, batch, _ in pairs) / followed),
        ("certify and apply on this host", sum(batch.ended - batch.started for _, batch, _ in pairs) / followed),
        ("answer", sum(answered - batch.ended for _, batch, answered in pairs) / followed),
        ("whole create()", found.whole / count),
    ]
    return {stage: round(1000 * mean, 3) for stage, mean in seconds}


def cpu_by_process(window: Window, leader: NodeProcess) -> dict[str, float]:
    count = sum(len(one.measured.latencies) for one in window.worked)
    followers = [cpu for node_id, cpu in window.node_cpu.items() if node_id != leader.node_id]
    seconds = {
        "application": sum(one.cpu for one in window.worked),
        "leader": window.node_cpu[leader.node_id],
        "each follower": sum(followers) / len(followers),
    }
    return {process: round(1000 * cpu / count, 3) for process, cpu in seconds.items()}


def apply_cost(window: Window, batches: list[AppliedBatch], plan: Plan) -> ApplyCost:
    """Of a follower, over one case of bulk_create."""
    rows = plan.rows * sum(len(one.measured.latencies) for one in window.worked)
    found = [batch for batch in batches if batch.started >= window.start]
    taken = sum(batch.ended - batch.started for batch in found)
    cpu = sum(batch.cpu for batch in found)
    return ApplyCost(round(rows / taken), round(1e6 * taken / rows, 2), round(1e6 * cpu / rows, 2), rows / taken >= 1e5)


def as_dict(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found
