"""What committing an entry costs, log only: latency, throughput, value sizes, reads, and how many nodes there are."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import FLOOR, Gathered, Row, Run, case
from benchmarks.floors import floor_ms
from benchmarks.loops import Measured, closed_loop, open_loop, pipelined
from benchmarks.systems.raftlog import LOG, RaftlogTarget
from raftlog.testing.bench.transactions import node_cpu

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
CLIENTS = (1, 4, 16, 64, 256)
SIZES = (16, 256, 4096, 65536)  # bytes
LOAD_SHARES = (0.25, 0.5, 0.75, 0.9)  # of what closed loops reached
OPEN_CLIENTS = 64
OURS = LOG.name
FLOOR_SECONDS = 0.5


def limit(measured: Measured) -> str:
    """The note of a row: what failed, and whether the load generator took so much that it may have been the limit."""
    share = measured.generator_share
    busy = f"load generator: {share:.0%} of a core in its busiest process" if share > 0.5 else ""
    return "; ".join(filter(None, [measured.trouble, busy]))


@case("latency", "one client, one put at a time, beside one message and one sync", seconds=25, quick_seconds=7)
def latency(run: Run) -> Iterator[Row]:
    gathered = Gathered("latency")
    with LOG.start(run.folder / "nodes", 3) as target:
        for repeat in range(run.repeats):
            run.note(f"one client, repeat {repeat + 1}")
            # The floor of each repeat is measured beside it: the machine's moods meet both.
            floor = sum(floor_ms(run.folder / "floor", FLOOR_SECONDS))
            measured = closed_loop(target, 1, run.seconds)
            for name, share in QUANTILES:
                beside = FLOOR if name == "p50" else ""
                gathered.add(
                    "put", OURS, {"quantile": name}, "ms", measured.ms(share), beside=beside, note=limit(measured)
                )
            gathered.add("put", FLOOR, {"quantile": "p50"}, "ms", floor)
    yield from gathered.rows()


@case(
    "clients",
    "blocking clients, each with one put at a time",
    seconds=75,
    quick_seconds=14,
    plot=[("clients", "per second"), ("clients", "ms")],
)
def clients(run: Run) -> Iterator[Row]:
    gathered = Gathered("clients")
    with LOG.start(run.folder / "nodes", 3) as target:
        for repeat in range(run.repeats):
            for count in (1, 16, 64) if run.quick else CLIENTS:
                run.note(f"{count} clients, repeat {repeat + 1}")
                measured = closed_loop(target, count, run.seconds)
                params = {"clients": count}
                gathered.add("put", OURS, params, "per second", measured.per_second, note=limit(measured))
                gathered.add("put: median", OURS, params, "ms", measured.ms(0.5))
                gathered.add("put: 99th percentile", OURS, params, "ms", measured.ms(0.99))
    yield from gathered.rows()


@case(
    "open",
    "puts that fall due at a fixed rate, whether the earlier ones were answered or not; latency counts from when due",
    seconds=55,
    quick_seconds=9,
    plot=[("load %", "ms")],
)
def open_rates(run: Run) -> Iterator[Row]:
    gathered = Gathered("open")
    with LOG.start(run.folder / "nodes", 3) as target:
        run.note(f"what {OPEN_CLIENTS} clients in a closed loop reach")
        most = closed_loop(target, OPEN_CLIENTS, run.seconds).per_second
        for repeat in range(run.repeats):
            for share in (0.5, 0.9) if run.quick else LOAD_SHARES:
                rate = round(most * share)
                run.note(f"{rate:,} a second, repeat {repeat + 1}")
                measured = open_loop(target, rate, OPEN_CLIENTS, run.seconds)
                params = {"load %": round(100 * share)}
                gathered.add("offered", OURS, params, "per second", rate)
                gathered.add("reached", OURS, params, "per second", measured.per_second, note=limit(measured))
                for name, quantile in (("median", 0.5), ("99th percentile", 0.99), ("99.9th percentile", 0.999)):
                    gathered.add(f"put: {name}", OURS, params, "ms", measured.ms(quantile))
    yield from gathered.rows()


@case("pipelined", "many puts under way at once, from one process and from two", seconds=25, quick_seconds=6)
def many_at_once(run: Run) -> Iterator[Row]:
    gathered = Gathered("pipelined")
    with LOG.start(run.folder / "nodes", 3) as target:
        for repeat in range(run.repeats):
            for processes in (1,) if run.quick else (1, 2):
                run.note(f"{processes} processes, repeat {repeat + 1}")
                measured = pipelined(target, run.seconds, workers=processes)
                gathered.add(
                    "put", OURS, {"processes": processes}, "per second", measured.per_second, note=limit(measured)
                )
    yield from gathered.rows()


@case(
    "sizes",
    "values of 16 bytes to 64 KiB, from 16 clients and pipelined",
    seconds=80,
    quick_seconds=11,
    plot=[("bytes", "per second"), ("bytes", "MiB per second")],
)
def sizes(run: Run) -> Iterator[Row]:
    gathered = Gathered("sizes")
    with LOG.start(run.folder / "nodes", 3) as target:
        for repeat in range(run.repeats):
            for size in (16, 65536) if run.quick else SIZES:
                run.note(f"{size:,} bytes, repeat {repeat + 1}")
                for name, measured in (
                    ("put, 16 clients", closed_loop(target, 16, run.seconds, size)),
                    ("put, pipelined", pipelined(target, run.seconds, size)),
                ):
                    params = {"bytes": size}
                    gathered.add(name, OURS, params, "per second", measured.per_second, note=limit(measured))
                    gathered.add(name, OURS, params, "MiB per second", measured.per_second * size / 2**20)
    yield from gathered.rows()


@case(
    "read index",
    "linearizable reads without a query: a safe index, asked for on the leader's host and on a follower's",
    seconds=70,
    quick_seconds=10,
    plot=[("clients", "per second"), ("clients", "ms")],
)
def read_index(run: Run) -> Iterator[Row]:
    gathered = Gathered("read index")
    with LOG.cluster(run.folder / "nodes", 3) as cluster:
        leader = cluster.wait_for_leader(60)
        follower = next(node for node in cluster if node.node_id != leader)
        for repeat in range(run.repeats):
            for place, node in (("leader", cluster[leader]), ("follower", follower)):
                for count in (1, 16) if run.quick else (1, 16, 64):
                    run.note(f"{count} clients beside the {place}, repeat {repeat + 1}")
                    measured = closed_loop(LOG.target(node), count, run.seconds, operation="get")
                    params = {"clients": count}
                    gathered.add(
                        f"beside the {place}", OURS, params, "per second", measured.per_second, note=limit(measured)
                    )
                    gathered.add(f"beside the {place}: median", OURS, params, "ms", measured.ms(0.5))
    yield from gathered.rows()


@case(
    "nodes",
    "3, 5 and 7 nodes on one machine: median of one client, throughput of 16, CPU time of all nodes for an entry",
    seconds=100,
    quick_seconds=22,
    plot=[("nodes", "ms"), ("nodes", "per second")],
)
def more_nodes(run: Run) -> Iterator[Row]:
    gathered = Gathered("nodes")
    for repeat in range(run.repeats):
        for count in (3, 7) if run.quick else (3, 5, 7):
            run.note(f"{count} nodes, repeat {repeat + 1}")
            with LOG.cluster(run.folder / f"{count}-{repeat}", count) as cluster:
                leader = cluster[cluster.wait_for_leader(60)]
                cluster.wait_all_applied(60)
                target: RaftlogTarget = LOG.target(leader)
                params = {"nodes": count}
                for name, number in (("one client", 1), ("16 clients", 16)):
                    before = node_cpu(cluster)
                    measured = closed_loop(target, number, run.seconds)
                    cpu = sum(node_cpu(cluster).values()) - sum(before.values())
                    gathered.add(f"{name}: median", OURS, params, "ms", measured.ms(0.5), note=limit(measured))
                    gathered.add(f"{name}: put", OURS, params, "per second", measured.per_second)
                    each = 1000 * cpu / max(1, measured.latencies.count) / count
                    gathered.add(f"{name}: CPU of a node for a put", OURS, params, "CPU ms", each)
    yield from gathered.rows()
