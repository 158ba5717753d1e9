"""`raft bench --batteries`: each battery's figure beside what people use for it today, on one cluster, in one run.

A module `battery_<name>.py` of this folder measures one battery. It has

    def measure(cluster: ProcessCluster, seconds: float) -> list[Row]

where a Row is `(name, unit, ours_per_second, theirs_name, theirs_per_second)`; a figure is None where it was not
measured, and `theirs_name` then says why. The cluster is three nodes that run, migrated, with all batteries in
INSTALLED_APPS (`bench_site.batteries_settings`). `rate()` has application processes of its hosts do something over and
over; it is meant for both sides, so that both pay for the same kind of process:

    ours = rate(cluster, "raftlog.testing.bench.battery_locks:our_lock", seconds, threads=4, arguments={"name": "x"})
    theirs = rate(cluster, "raftlog.testing.bench.battery_locks:redis_lock", seconds, threads=4)

    def our_lock(name: str) -> Callable[[], int]:  # runs in the application process, once for each thread
        def cycle() -> int:
            with raftlog.lock(name, ttl=10): ...
            return 1
        return cycle
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from raftlog.runtime import clock
from raftlog.testing import bench
from raftlog.testing.bench.battery_client import Work
from raftlog.testing.bench.client import Measured
from raftlog.testing.bench.figures import in_ms, quantile
from raftlog.testing.bench.together import run_together
from raftlog.testing.processes import NodeProcess, ProcessCluster

SETTINGS = "raftlog.testing.bench_site.batteries_settings"
NODES = 3
NO_BATTERIES = ("battery_client",)

Tell = Callable[[str], None]
Row = tuple[str, str, float | None, str, float | None]


class BatteryFigure(msgspec.Struct):
    """`unit` a second, of ours and of theirs; None: not measured, and `theirs` (or `error`) says why."""

    battery: str
    name: str
    unit: str
    per_second: float | None
    theirs: str
    theirs_per_second: float | None
    ratio: float | None = None


class BatteryReport(msgspec.Struct):
    nodes: int
    seconds: float
    took: float
    load: float  # of the machine, over the last minute, when it ended
    figures: list[BatteryFigure]
    # Battery -> why it has no figure.
    not_measured: dict[str, str] = {}


class Rate(msgspec.Struct):
    """What application processes did together."""

    per_second: float
    p50_ms: float | None
    p99_ms: float | None


def measure(directory: Path, *, seconds: float, only: list[str], tell: Tell) -> BatteryReport:
    """All batteries that have a module here, or those named. Raises RaftlogError where the cluster does not start."""
    began = clock.monotonic()
    figures: list[BatteryFigure] = []
    not_measured: dict[str, str] = {}
    tell(f"starting {NODES} nodes with fsync on and every battery installed")
    with ProcessCluster(NODES, directory, settings_module=SETTINGS, options={"CLUSTER": "bench"}) as cluster:
        cluster.start()
        cluster[cluster.wait_for_leader(60)].manage("migrate", "--run-syncdb", "--verbosity=0", timeout=300)
        cluster.wait_all_applied(60)
        for name, hook in find_batteries().items():
            if only and name not in only:
                continue
            tell(f"{name}: {seconds:g} s for each figure")
            try:
                figures += [compare(name, row) for row in hook(cluster, seconds)]
            except Exception as error:  # noqa: BLE001  (one battery that fails takes no other's figures away)
                not_measured[name] = f"{type(error).__name__}: {error}"
                tell(f"{name}: not measured: {not_measured[name]}")
            cluster.wait_all_applied(120)
    took = round(clock.monotonic() - began, 1)
    return BatteryReport(NODES, seconds, took, round(os.getloadavg()[0], 1), figures, not_measured)


def find_batteries() -> dict[str, Callable[[ProcessCluster, float], list[Row]]]:
    """Name -> measure(), of every module battery_<name> in this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules(bench.__path__))
    return {
        name.removeprefix("battery_"): importlib.import_module(f"{bench.__name__}.{name}").measure
        for name in names
        if name.startswith("battery_") and name not in NO_BATTERIES
    }


def compare(battery: str, row: Row) -> BatteryFigure:
    name, unit, ours, theirs_name, theirs = row
    ratio = round(ours / theirs, 3) if ours and theirs else None
    return BatteryFigure(battery, name, unit, _rounded(ours), theirs_name, _rounded(theirs), ratio)


def _rounded(per_second: float | None) -> float | None:
    return None if per_second is None else round(per_second, 1)


# For the modules of batteries


def leader(cluster: ProcessCluster) -> NodeProcess:
    return cluster[cluster.wait_for_leader(60)]


def measured(
    nodes: list[NodeProcess], action: str, seconds: float, *, threads: int = 1, arguments: dict[str, Any] | None = None
) -> Rate:
    """One application process on the host of each of `nodes`, `threads` in each, all at the same time.

    `action`: "module:function", see Work. What it raises ends the measurement: RaftlogError.
    """
    work = Work(action, seconds, threads, arguments or {})
    done = run_together("raftlog.testing.bench.battery_client", [(node.environment, work) for node in nodes], Measured)
    latencies = sorted(latency for one in done for latency in one.latencies)
    per_second = sum(one.count / one.seconds for one in done)
    return Rate(per_second, in_ms(quantile(latencies, 0.5)), in_ms(quantile(latencies, 0.99)))


def rate(
    cluster: ProcessCluster,
    action: str,
    seconds: float,
    *,
    threads: int = 1,
    hosts: int = 1,
    arguments: dict[str, Any] | None = None,
) -> float:
    """How often a second: see measured(). With one host that of the leader, with more the others too."""
    first = leader(cluster)
    nodes = [first, *(node for node in cluster if node is not first)][:hosts]
    return measured(nodes, action, seconds, threads=threads, arguments=arguments).per_second


def as_dict(report: BatteryReport) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found
