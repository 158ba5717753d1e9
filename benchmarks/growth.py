"""What a long log costs: 10⁴, 10⁵ and 10⁶ entries, and each time the latency of a commit, and a restart.

Three nodes with fsync on whose state machine applies nothing, so that the log alone is measured, and none of it is
compacted. A restart is a follower that is killed and started again: until it follows the leader, and the most memory
that was resident until it has applied all of its log again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.cases import FLOOR, Row, Run, case
from benchmarks.nodes import started
from benchmarks.usage import of_process, peak_memory
from raftlog.runtime import clock
from raftlog.testing.bench.client import Load
from raftlog.testing.bench.figures import in_ms, quantile, run_clients
from raftlog.testing.bench.floor import sync_of_a_small_append
from raftlog.testing.processes import NodeProcess, ProcessCluster

ENTRIES: Final = (0, 10_000, 100_000, 1_000_000)
QUICK_ENTRIES: Final = (10_000, 100_000)
TIMEOUT: Final = 300.0  # seconds
VALUE_BYTES: Final = 100
NEVER: Final = {"COMPACT_LOG_BYTES": 1 << 40, "COMPACT_LOG_ENTRIES": 1 << 30}
ENTRIES_A_SECOND: Final = 50_000  # less than a pipelining client adds: none of the fills goes far beyond its goal


def fill(cluster: ProcessCluster, leader: NodeProcess, entries: int) -> None:
    """Until the log has so many, and every node has applied them."""
    while (missing := entries - cluster.wait_all_applied(TIMEOUT)) > 0:
        run_clients(leader, Load("pipelined", max(0.05, min(3.0, missing / ENTRIES_A_SECOND / 4)), 1, VALUE_BYTES))


def restart(cluster: ProcessCluster, node: NodeProcess) -> tuple[float, float]:
    """(seconds from its start until it follows a leader, MiB that were resident at most)."""
    node.kill()
    cluster.wait_for_leader(TIMEOUT)
    began = clock.monotonic()
    node.start()
    cluster.wait_for(
        lambda found: bool(found[node.node_id]) and bool(found[node.node_id]["leader_id"]), TIMEOUT, "it follows"
    )
    took = clock.monotonic() - began
    cluster.wait_all_applied(TIMEOUT)
    assert node.pid is not None
    return took, peak_memory(node.pid)


@case(
    "growth",
    "commit latency, memory and restart with 10⁴, 10⁵ and 10⁶ entries in the log",
    seconds=150,
    quick_seconds=40,
    plot=[("entries", "ms"), ("entries", "s"), ("entries", "MiB")],
)
def growth(run: Run) -> Iterator[Row]:
    floors = [round(1000 * sync_of_a_small_append(run.folder, run.seconds), 4) for _ in range(run.repeats)]
    yield Row("growth", "fdatasync of a small append", FLOOR, {}, "ms", floors)
    with started(run.folder, **NEVER) as cluster:
        for entries in QUICK_ENTRIES if run.quick else ENTRIES:
            run.note(f"{entries:,} entries")
            yield from measure(run, cluster, entries)


def measure(run: Run, cluster: ProcessCluster, entries: int) -> Iterator[Row]:
    leader = cluster[cluster.wait_for_leader(TIMEOUT)]
    fill(cluster, leader, entries)
    follower = next(node for node in cluster if node is not leader)
    params = {"entries": entries}
    last_index = cluster.wait_all_applied(TIMEOUT)
    note = f"{last_index:,} entries of {VALUE_BYTES} bytes"
    latencies: dict[float, list[float]] = {0.5: [], 0.99: []}
    for _ in range(run.repeats):
        [measured] = run_clients(leader, Load("blocking", run.seconds, 1, VALUE_BYTES))
        for share, found in latencies.items():
            found.append(in_ms(quantile(sorted(measured.latencies), share)) or 0.0)
    for share, found in latencies.items():
        yield Row("growth", f"one client: p{100 * share:g}", "raftlog", params, "ms", found, note=note)
    resident = [round(of_process(node.pid)["resident memory"], 1) for node in cluster if node.pid]
    yield Row("growth", "resident while it works", "raftlog", params, "MiB", resident, note="of each node")
    restarts = [restart(cluster, follower) for _ in range(run.repeats)]
    took = [round(seconds, 3) for seconds, _ in restarts]
    yield Row("growth", "restart", "raftlog", params, "s", took, note="from the start of the process to a follower")
    peaks = [round(peak, 1) for _, peak in restarts]
    yield Row(
        "growth", "resident after a restart", "raftlog", params, "MiB", peaks, note="at most, until all is applied"
    )
