"""From one node to three to seven to five to three, each step one command, while writers write: what does it cost them?

    python -m benchmarks.membership [--json]

Real node processes of this machine, with fsync on. One writer writes through a node that stays, as fast as it is
answered; printed is the longest time without an acknowledged write in each step, and whether a write failed, was lost
or was applied twice. At the end leadership is handed over by command, and the leader's process is stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster, leader_of
from raftlog.testing.writer import Writer

SETTINGS = "raftlog.testing.bench_site.settings"
TIMEOUT = 300.0  # seconds
CALM = 5.0  # seconds of writes with each number of nodes

Figures = list[dict[str, Any]]


class Run:
    """A cluster, a writer, and the figures of the steps so far."""

    def __init__(self, cluster: ProcessCluster, tell: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.a = cluster["a"]
        self.tell = tell
        self.steps: Figures = []
        cluster.start()
        cluster.wait_for_leader(TIMEOUT)
        self.a.manage("migrate", "--run-syncdb", "--verbosity=0")
        self.writer = Writer(self.a.client())
        self.writer.start()
        self.calm("1 node")

    def start(self, *names: str) -> None:
        """New nodes that wait to be taken in; one after the other, since starting takes a core each."""
        self.writer.step = f"starting {', '.join(names)}"
        for name in names:
            self.cluster.new_node(name).start()
            self.cluster.wait_for(lambda found, name=name: found[name] is not None, TIMEOUT, f"{name} is up")

    def raft(self, *arguments: str) -> None:
        self.measure(f"raft {' '.join(arguments)}", lambda: self.a.manage("raft", *arguments, timeout=TIMEOUT))

    def measure(self, name: str, do: Callable[[], Any]) -> None:
        self.writer.step = name
        began = clock.monotonic()
        do()
        took = clock.monotonic() - began
        seen = len(self.writer.acknowledged)
        self.cluster.wait_for(lambda found: len(self.writer.acknowledged) > seen, TIMEOUT, "writes go on")
        self.steps.append({"step": name, "took": took, "gap": self.writer.gaps[name]})
        self.tell(f"{name}: {took:.1f} s, longest gap {self.writer.gaps[name] * 1000:.0f} ms")

    def calm(self, name: str) -> None:
        """Writes with nothing changing beside them, for comparison."""
        seen = len(self.writer.acknowledged)
        self.measure(f"{name}, nothing changes", lambda: clock.sleep(CALM))
        self.steps[-1]["writes_per_second"] = (len(self.writer.acknowledged) - seen) / CALM

    def lead(self, node_id: str) -> None:
        self.raft("transfer", node_id)

    def let_go(self, *names: str) -> None:
        self.raft("remove", *names, "--noinput")
        for name in names:
            node = self.cluster.nodes.pop(name)
            node.wait(TIMEOUT)
            node.close()

    def end(self) -> None:
        """Stop the leader, then compare."""
        self.measure("the leader is stopped (SIGTERM)", self._stop_leader)
        self.writer.stop()
        self.cluster.wait_all_applied(TIMEOUT)
        self.writer.check(node.database for node in self.cluster.running)

    def _stop_leader(self) -> None:
        leader = leader_of(self.cluster.statuses())
        self.cluster[str(leader)].stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    console = Console(quiet=options.json)
    with (
        tempfile.TemporaryDirectory(prefix="raftlog-") as folder,
        ProcessCluster(1, Path(folder), settings_module=SETTINGS) as cluster,
    ):
        run = Run(cluster, console.print)
        for names in ("bc", "defg"):
            run.start(*names)
            addresses = [word for name in names for word in (name, cluster[name].address)]
            run.measure(f"raft add {' '.join(names)}", lambda words=addresses: run.a.manage("raft", "add", *words))
            run.calm(f"{len(cluster)} nodes")
        run.let_go("f", "g")
        run.calm("5 nodes")
        run.lead("b")
        run.let_go("b", "e")
        run.calm("3 nodes")
        run.lead("c")
        run.end()
        writer = run.writer
        result = {
            "steps": run.steps,
            "writes": len(writer.acknowledged),
            "refused": len(writer.refused),
            "unknown": len(writer.unknown),
            "lost": 0,  # else check() has raised
        }
    if options.json:
        print(json.dumps(result))
        return
    shown = Table("step", "took", "longest gap between two writes", "writes/s", box=None)
    for step in run.steps:
        rate = step.get("writes_per_second")
        shown.add_row(
            step["step"], f"{step['took']:.1f} s", f"{step['gap'] * 1000:.0f} ms", f"{rate:,.0f}" if rate else ""
        )
    console.print(shown)
    console.print(
        f"{result['writes']} writes: {result['refused']} refused, {result['unknown']} of unknown outcome, none lost, "
        "none applied twice"
    )


if __name__ == "__main__":
    main()
