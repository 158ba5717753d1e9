"""Does anything grow? Three nodes under a steady mixed load for as long as is asked: `--only soak --minutes 30`.

On each host an application process writes by plain Django code and by commands, and reads (soak_client.py), at a pace
that leaves the machine idle half of the time; the tables keep one size. Before that, as many entries are written as a
node remembers of its past (recent entries, their hashes and results, the feed of changes), or as FILL_SECONDS allow, so
that filling these is not taken for growth; a short run leaves it out. Logs are compacted every few seconds. Every few
minutes a follower is killed and started again: in the first half of the run the one, in the second the other, so that
each has a life of half the run to be judged by. What each process uses is sampled, and judged by the rule in usage.py.
With --objects every process says what it holds more of at the end than in the middle.
"""

from __future__ import annotations

import collections
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.cases import Row, Run, case
from benchmarks.nodes import COMPACTS_OFTEN, started
from benchmarks.usage import ALLOWED, Samples
from raftlog.runtime import clock
from raftlog.testing.bench.client import Load
from raftlog.testing.bench.figures import run_clients
from raftlog.testing.processes import NodeProcess, ProcessCluster, leader_of

SAMPLE_EVERY = 5.0  # seconds
KILL_EVERY = 180.0  # seconds
DOWN_FOR = 5.0  # seconds
FILLED = 250_000  # entries before the samples begin: more than a node remembers, in bytes or in number
FILL_SECONDS = 180.0  # at most, of writing them
FILLS_FROM = 10.0  # minutes of a run
MARGIN = 30.0  # seconds around the middle of the run without a kill, so that lives last a little more than half of it
SAYING = 30.0  # seconds for nodes to count and to print
SHOWN = 30  # samples of each process and measure that become rows; all of them are judged


class App:
    """An application process on the host of `node`."""

    def __init__(self, node: NodeProcess, folder: Path, *, counts_objects: bool) -> None:
        self.name = f"application on {node.node_id}"
        self.errors = folder / f"application-{node.node_id}.log"
        self._output: IO[bytes] = self.errors.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_client", node.node_id, *(["--objects"] if counts_objects else [])],
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


def victim_at(moment: float, seconds: float, followers: Sequence[str]) -> str | None:
    """Which of two followers is to be killed `moment` seconds into a run of `seconds`; None near its middle."""
    if moment < seconds / 2 - MARGIN:
        return followers[0]
    return followers[1] if moment > seconds / 2 + MARGIN else None


class Soak:
    """A cluster, its load and the samples of both, over `seconds`."""

    def __init__(self, cluster: ProcessCluster, apps: list[App], run: Run) -> None:
        self.cluster = cluster
        self.apps = apps
        self.run = run
        self.seconds = 60 * run.minutes
        self.samples = Samples()
        leader = cluster.wait_for_leader(60)
        self.followers = [name for name in cluster.nodes if name != leader]
        self.kills: collections.Counter[str] = collections.Counter()

    def go_on(self) -> None:
        began = clock.monotonic()
        next_sample, next_kill, starts_at = 0.0, KILL_EVERY, 0.0
        killed: str | None = None
        middle = self.seconds / 2
        while (moment := clock.monotonic() - began) < self.seconds:
            if moment >= next_sample:
                self._sample(moment)
                next_sample += SAMPLE_EVERY
            if moment >= next_kill:
                killed = self._kill(victim_at(moment, self.seconds, self.followers))
                next_kill, starts_at = next_kill + KILL_EVERY, moment + DOWN_FOR
            if killed and moment >= starts_at:
                self.cluster[killed].start()
                killed = None
            if moment >= middle:
                self._count_objects()
                middle = self.seconds
            clock.sleep(0.1)
        if killed:
            self.cluster[killed].start()

    def _count_objects(self) -> None:
        """What runs is to compare with what it holds now, and at the next call to say what it holds more of."""
        if self.run.objects:
            for process in [*(app.process for app in self.apps), *(node.process for node in self.cluster.running)]:
                if process is not None:
                    process.send_signal(signal.SIGUSR1)

    def say_objects(self) -> None:
        """Of the nodes; the applications say it when they end."""
        if not self.run.objects:
            return
        for node in self.cluster.running:
            node.send_signal(signal.SIGUSR1)
        clock.sleep(SAYING)
        for node in self.cluster:
            for line in node.log_file.read_text().splitlines():
                if line.startswith("held: "):
                    self.run.note(f"node {node.node_id}: {line.removeprefix('held: ')}")

    def _kill(self, name: str | None) -> str | None:
        """Its name where it was; the leader is spared."""
        if name is None or leader_of(self.cluster.statuses()) == name:
            return None
        self.cluster[name].kill()
        self.kills[name] += 1
        return name

    def _sample(self, moment: float) -> None:
        self.cluster.refuse_dead()
        for node in self.cluster:
            self.samples.take(moment, f"node {node.node_id}", node.pid if node.is_running else None, node.directory)
        for app in self.apps:
            app.refuse_dead()
            self.samples.take(moment, app.name, app.process.pid)
        memory = [
            f"{process} {lives[-1][-1][1]:.1f}"
            for (process, measure), lives in self.samples.lives.items()
            if measure == "resident memory"
        ]
        self.run.note(f"{moment / 60:.2f} min, MiB resident: {', '.join(memory)}")

    def rows(self) -> Iterator[Row]:
        """The verdicts, then the samples that a plot shows: one line for each process."""
        for (process, measure), verdict in self.samples.verdicts(self.seconds).items():
            name, unit, params = f"{measure}, slope", f"{ALLOWED[measure][0]} an hour", {"process": process}
            if verdict.slope is None:
                yield Row("soak", name, "raftlog", params, unit, [], note=f"{verdict.word}: {verdict.why}")
            else:
                note = f"{verdict.word}: {verdict.allowed:g} an hour are allowed in the second half of its life"
                yield Row("soak", name, "raftlog", params, unit, [round(verdict.slope, 2)], note=note)
        for (process, measure), lives in self.samples.lives.items():
            samples = [sample for life in lives for sample in life]
            for moment, value in samples[:: -(-len(samples) // SHOWN)]:
                params = {"process": process, "minutes": round(moment / 60, 2)}
                yield Row("soak", measure, "raftlog", params, ALLOWED[measure][0], [round(value, 2)])


def fill(cluster: ProcessCluster, run: Run) -> None:
    """Commands of a row each, from many threads, by the node that leads."""
    began = clock.monotonic()
    leader = cluster[cluster.wait_for_leader(60)]
    while (last := cluster.wait_all_applied(120)) < FILLED and clock.monotonic() - began < FILL_SECONDS:
        run.note(f"{last:,} entries, of {FILLED:,} before it begins")
        run_clients(leader, Load("rows", 15.0, 64))


@case(
    "soak",
    "what every process uses under a steady load, and whether it grows",
    seconds=1800,
    quick_seconds=120,
    plot=[("minutes", unit) for unit in dict.fromkeys(unit for unit, _ in ALLOWED.values())],
    by_default=False,
)
def soak(run: Run) -> Iterator[Row]:
    command = [sys.executable, "-m", "benchmarks.held" if run.objects else "django"]
    with started(run.folder, machine="database", command=command, **COMPACTS_OFTEN) as cluster:
        apps: list[App] = []
        try:
            if run.minutes >= FILLS_FROM:
                fill(cluster, run)
            apps += [App(node, run.folder, counts_objects=run.objects) for node in cluster]
            found = Soak(cluster, apps, run)
            found.go_on()
            found.say_objects()
            counts = collections.Counter[str]()
            for app in apps:
                said = app.stop()
                counts.update(said["done"])
                counts.update({f"failed: {kind}": count for kind, count in said["failed"].items()})
                for line in said["grown"]:
                    run.note(f"{app.name}: {line}")
        finally:
            for app in apps:
                app.close()
        cluster.wait_all_applied(120)
    yield from found.rows()
    note = ", ".join(f"{name} killed {count} times" for name, count in found.kills.items())
    for what, count in counts.items():
        yield Row("soak", what, "raftlog", {}, "in all", [float(count)], note=note)
