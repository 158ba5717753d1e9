"""Does anything grow? Three nodes under a steady mixed load for as long as is asked: `--only soak --minutes 30`.

On each host an application process writes by plain Django code and by commands, and reads (soak_client.py), at a pace
that leaves the machine idle half of the time; the tables keep one size. Logs are compacted every few seconds, and one
follower is killed and started again every few minutes. What each process uses is sampled, and judged by the rule in
usage.py.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from benchmarks.cases import Row, Run, case
from benchmarks.nodes import COMPACTS_OFTEN, started
from benchmarks.usage import ALLOWED, Samples
from raftlog.runtime import clock
from raftlog.testing.processes import NodeProcess, ProcessCluster, leader_of

SAMPLE_EVERY = 5.0  # seconds
KILL_EVERY = 180.0  # seconds
DOWN_FOR = 5.0  # seconds
SHOWN = 30  # points of each series that become rows; all of them are judged


class App:
    """An application process on the host of `node`."""

    def __init__(self, node: NodeProcess, folder: Path) -> None:
        self.name = f"application on {node.node_id}"
        self.errors = folder / f"application-{node.node_id}.log"
        self._output: IO[bytes] = self.errors.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_client", node.node_id],
            env=node.environment,
            stdout=subprocess.PIPE,
            stderr=self._output,
        )

    def refuse_dead(self) -> None:
        """Raises RuntimeError where it has ended: its share of the load is missing."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{self.errors.read_text()[-2000:]}")

    def stop(self) -> dict[str, Any]:
        """What it has done; raises RuntimeError where it cannot say."""
        self.refuse_dead()
        self.process.terminate()
        output, _ = self.process.communicate(timeout=120)
        found: dict[str, Any] = json.loads(output)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()


class Soak:
    """A cluster, its load and the samples of both. `victim` is the follower that is killed now and then."""

    def __init__(self, cluster: ProcessCluster, apps: list[App], run: Run) -> None:
        self.cluster = cluster
        self.apps = apps
        self.run = run
        self.samples = Samples()
        self.victim = next(name for name in cluster.nodes if name != cluster.wait_for_leader(60))
        self.kills = 0

    def go_on(self, seconds: float) -> None:
        began = clock.monotonic()
        next_sample, next_kill, starts_at = began, began + KILL_EVERY, 0.0
        while (now := clock.monotonic()) < began + seconds:
            if now >= next_sample:
                self._sample(now - began)
                next_sample += SAMPLE_EVERY
            if now >= next_kill:
                starts_at = self._kill(now)
                next_kill = now + KILL_EVERY
            if starts_at and now >= starts_at:
                self.cluster[self.victim].start()
                starts_at = 0.0
            clock.sleep(0.1)
        if starts_at:
            self.cluster[self.victim].start()

    def _kill(self, now: float) -> float:
        """When to start it again; 0.0 where it leads, and is spared."""
        if leader_of(self.cluster.statuses()) == self.victim:
            return 0.0
        self.cluster[self.victim].kill()
        self.kills += 1
        return now + DOWN_FOR

    def _sample(self, moment: float) -> None:
        self.cluster.refuse_dead()
        for node in self.cluster:
            self.samples.take(moment, f"node {node.node_id}", node.pid if node.is_running else None, node.directory)
        for app in self.apps:
            app.refuse_dead()
            self.samples.take(moment, app.name, app.process.pid)
        memory = [f"{name} {found[-1][1]:.0f}" for (name, what), found in self.samples.series.items() if "mem" in what]
        self.run.note(f"{moment / 60:.1f} min, resident MiB: {', '.join(memory)}")

    def rows(self) -> Iterator[Row]:
        for (process, measure), samples in self.samples.series.items():
            unit = ALLOWED[measure][0]
            for moment, value in samples[:: -(-len(samples) // SHOWN)]:
                params = {"process": process, "minutes": round(moment / 60, 2)}
                yield Row("soak", measure, "raftlog", params, unit, [round(value, 2)])
        for (process, measure), verdict in self.samples.verdicts().items():
            name, unit, params = f"{measure}, slope", f"{ALLOWED[measure][0]} an hour", {"process": process}
            if verdict is None:
                note = "not measured: too few samples of this process"
                yield Row("soak", name, "raftlog", params, unit, [], note=note)
                continue
            rise = f"rose by {verdict.rise:.2f} in the last two thirds, {verdict.allowed:.1f} are allowed"
            yield Row("soak", name, "raftlog", params, unit, [round(verdict.slope, 3)], note=f"{verdict.word}: {rise}")


@case(
    "soak",
    "what every process uses under a steady load, and whether it grows",
    seconds=1800,
    quick_seconds=120,
    plot=[("minutes", unit) for unit in dict.fromkeys(unit for unit, _ in ALLOWED.values())],
    by_default=False,
)
def soak(run: Run) -> Iterator[Row]:
    with started(run.folder, machine="database", **COMPACTS_OFTEN) as cluster:
        apps: list[App] = []
        try:
            apps += [App(node, run.folder) for node in cluster]
            found = Soak(cluster, apps, run)
            found.go_on(60 * run.minutes)
            counts = collections.Counter[str]()
            for app in apps:
                said = app.stop()
                counts.update(said["done"])
                counts.update({f"failed: {kind}": count for kind, count in said["failed"].items()})
        finally:
            for app in apps:
                app.close()
        cluster.wait_all_applied(120)
    yield from found.rows()
    note = f"one follower killed {found.kills} times"
    for what, count in counts.items():
        yield Row("soak", what, "raftlog", {}, "in all", [float(count)], note=note)
