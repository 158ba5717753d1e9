"""Plain Django code on three nodes, beside Django's own SQLite backend with full sync."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.cases import Gathered, Row, Run, case
from benchmarks.commit import limit
from benchmarks.loops import closed_loop
from benchmarks.systems.raftlog import ORM
from raftlog.testing.bench import transactions
from raftlog.testing.bench.client import Load
from raftlog.testing.bench.figures import BULK_ROWS, SETTINGS, run_clients, summarize
from raftlog.testing.bench.stages import AppliedBatch, read_trace
from raftlog.testing.bench.transactions import HUGE, Plan, Window
from raftlog.testing.processes import NodeProcess, ProcessCluster

OURS = "raftlog"
STOCK = "stock SQLite"
WRITERS = (1, 4, 16, 64)
TIMEOUT = 120.0  # seconds


class Sides(NamedTuple):
    """Where the same code runs: hosts of a cluster, and an application on the stock backend. `trace`: of the nodes."""

    cluster: ProcessCluster
    leader: NodeProcess
    stock: dict[str, str]
    trace: Path

    def follower(self) -> NodeProcess:
        return next(node for node in self.cluster if node is not self.leader)

    def applied(self, node: NodeProcess, window: Window) -> list[AppliedBatch]:
        """The batches that the node has applied in that time."""
        return read_trace(self.trace.with_suffix(f".{node.node_id}"), window.start, window.end)


@contextmanager
def both_sides(folder: Path) -> Iterator[Sides]:
    """Three nodes whose tables are made, and which write down what they apply; and tables on the stock backend."""
    trace = folder / "trace"
    with ProcessCluster(
        3,
        folder / "nodes",
        settings_module=SETTINGS,
        options={"CLUSTER": "bench", "PROPOSAL_TIMEOUT": int(TIMEOUT)},
        environment={"RAFTLOG_BENCH_TRACE": str(trace)},
    ) as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(60)]
        leader.manage("migrate", "--run-syncdb", "--verbosity=0")
        yield Sides(cluster, leader, transactions.stock_environment(leader, folder / "stock.sqlite3"), trace)


def in_turns(run: Run, gathered: Gathered, sides: Sides, plan: Plan, params: dict[str, int]) -> Window:
    """One repeat of a plan on both backends; returns what ours left behind."""
    run.note(f"{plan.name}, writers: {plan.writers}, on hosts: {plan.nodes}")
    theirs = transactions.run_stock(sides.stock, plan, run.seconds)
    window = transactions.run_raft(sides.cluster, sides.leader, plan, run.seconds)
    rate = "rows per second" if plan.case == "bulk" else "per second"
    for system, found, beside in (
        (OURS, transactions.side(window, plan), STOCK),
        (STOCK, transactions.side(theirs, plan), ""),
    ):
        gathered.add(plan.name, system, params, rate, found.per_second, beside=beside)
        gathered.add(f"{plan.name}: median", system, params, "ms", found.p50_ms, beside=beside)
        gathered.add(f"{plan.name}: longest", system, params, "ms", found.max_ms, beside=beside)
        gathered.add(f"{plan.name}: CPU of all processes", system, params, "CPU ms", found.cpu_ms, beside=beside)
    return window


@case(
    "transactions",
    "create() by 1 to 64 writers on one host and on three, beside the stock SQLite backend with full sync",
    seconds=130,
    quick_seconds=15,
    plot=[("writers", "per second"), ("writers", "ms"), ("writers", "CPU ms")],
)
def writers(run: Run) -> Iterator[Row]:
    gathered = Gathered("transactions")
    with both_sides(run.folder) as sides:
        for _ in range(run.repeats):
            for hosts in (1,) if run.quick else (1, 3):
                for count in (1, 16) if run.quick else [n for n in WRITERS if n >= hosts]:
                    name = "create()" if hosts == 1 else f"create(), on {hosts} hosts"
                    in_turns(run, gathered, sides, Plan(name, "create", count, nodes=hosts), {"writers": count})
    yield from gathered.rows()


@case(
    "orm",
    "transactions of ten rows and in bulk, updates, reads, beside the stock SQLite backend with full sync",
    seconds=140,
    quick_seconds=15,
)
def orm(run: Run) -> Iterator[Row]:
    gathered = Gathered("orm")
    plans = [
        Plan("atomic(): 10 × create()", "ten", 1),
        Plan("atomic(): 10 × create()", "ten", 16),
        Plan("update(F()), a row each", "update", 16),
        Plan("update(F()), one row", "hot", 16),
        Plan(f"bulk_create({HUGE:,})", "bulk", 1, rows=HUGE),
        Plan("get() by key", "read", 4),
    ]
    always = [Plan("bulk_create(1,000)", "bulk", 1), Plan("get() by key", "read", 1)]
    with both_sides(run.folder) as sides:
        for _ in range(run.repeats):
            for plan in always if run.quick else [*plans, *always]:
                window = in_turns(run, gathered, sides, plan, {"writers": plan.writers})
                if plan is always[0]:
                    cost = transactions.apply_cost(window, sides.applied(sides.follower(), window), plan)
                    gathered.add("rows applied by a follower", OURS, {}, "rows per second", cost.rows_per_second)
    yield from gathered.rows()


@case(
    "commands",
    "commands that write through the ORM, until all three nodes have applied them: one row each, and many",
    seconds=45,
    quick_seconds=12,
)
def commands(run: Run) -> Iterator[Row]:
    gathered = Gathered("commands")
    loads = [("one row a command", Load("rows", run.seconds, n)) for n in ((64,) if run.quick else (1, 16, 64))]
    loads.append((f"{BULK_ROWS} rows a command", Load("bulk", run.seconds, 8, batch=BULK_ROWS)))
    with ORM.cluster(run.folder / "nodes", 3) as cluster:
        leader = cluster[cluster.wait_for_leader(60)]
        for repeat in range(run.repeats):
            for name, load in loads:
                run.note(f"{name}, {load.threads} clients, repeat {repeat + 1}")
                measured = run_clients(leader, load)
                figure = summarize(name, load, measured)
                cluster.wait_all_applied(TIMEOUT)
                unit = "rows per second" if load.mode == "bulk" else "per second"
                gathered.add(name, OURS, {"clients": load.threads}, unit, figure.per_second)
                if figure.p50_ms is not None:
                    gathered.add(f"{name}: median", OURS, {"clients": load.threads}, "ms", figure.p50_ms)
    yield from gathered.rows()


@case(
    "reads",
    "one row by its key inside linearizable(), on the leader's host and on a follower's",
    seconds=50,
    quick_seconds=11,
    plot=[("clients", "per second"), ("clients", "ms")],
)
def reads(run: Run) -> Iterator[Row]:
    gathered = Gathered("reads")
    with ORM.cluster(run.folder / "nodes", 3) as cluster:
        leader = cluster[cluster.wait_for_leader(60)]
        follower = next(node for node in cluster if node is not leader)
        for repeat in range(run.repeats):
            for place, node in (("leader", leader), ("follower", follower)):
                for count in (1, 8) if run.quick else (1, 8, 32):
                    run.note(f"{count} clients beside the {place}, repeat {repeat + 1}")
                    measured = closed_loop(ORM.target(node), count, run.seconds, operation="get")
                    params = {"clients": count}
                    name = f"beside the {place}"
                    gathered.add(name, OURS, params, "per second", measured.per_second, note=limit(measured))
                    gathered.add(f"{name}: median", OURS, params, "ms", measured.ms(0.5))
    yield from gathered.rows()
