"""Linearizable reads through the ORM on every node, followers included, while nodes are paused and cut off.

Application processes beside each node write and read registers (values of a map). All that they saw goes to
the linearizability checker. The mutation `no-barrier` reads the local database as it stands, which the checker
must catch. Some reads are under max_staleness(): of those, none may show what was overwritten longer ago.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from raftlog.runtime import clock
from raftlog.testing.history import History, Operation
from raftlog.testing.linearizability import check
from raftlog.testing.models import Register
from raftlog.testing.processes import ProcessCluster, node_names
from raftlog.testing.torture.network import Network, make_network
from raftlog.testing.trials import Tell, Trial
from raftlog.testing.trials._reads_client import STALENESS, Work

START_TIMEOUT = 60.0  # seconds
END_TIMEOUT = 60.0
PREPARE = """
from raftlog.testing.torture_site.models import Pair
for name in {registers}:
    Pair.objects.create(key=name, value="0")
"""


class Registers(Register):
    """Each register by itself; it begins with 0."""

    def __init__(self) -> None:
        super().__init__(0)

    def partition(self, operation: Operation) -> Any:
        return operation.key


class Reads(Trial):
    name = "reads"
    help = "linearizable and bounded reads on all nodes, under partitions and pauses, checked for linearizability"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=60.0, help="of load and faults (default: 60)")
        parser.add_argument("--threads", type=int, default=3, help="for each node (default: 3)")
        parser.add_argument("--registers", type=int, default=5, help="(default: 5)")
        parser.add_argument(
            "--every", type=float, default=1.5, help="seconds between faults, on average (default: 1.5)"
        )
        parser.add_argument("--network", choices=["auto", "netns", "proxy"], default="proxy", help="(default: proxy)")
        parser.add_argument("--mutation", choices=["no-barrier"], help="break it: reads are plain local reads")
        parser.add_argument("--leases", action="store_true", help="with RAFTLOG['READ_LEASE']")

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "raftlog.testing.torture_site.settings")  # for node settings
        names = node_names(options["nodes"])
        network = make_network(options["network"], names)
        raftlog_options: dict[str, Any] = {"MEMBERS": network.members, "PROPOSAL_TIMEOUT": 3.0}
        if options["leases"]:
            raftlog_options["READ_LEASE"] = True
        cluster = ProcessCluster(
            len(names),
            directory,
            settings_module="raftlog.testing.torture_site.settings",
            options=raftlog_options,
            environment={"RAFTLOG_ENGINE": "raftlog.backends.sqlite3"},
            node_options=network.node_options(),
        )
        try:
            with cluster:
                return self._run_on(cluster, network, options, rng, tell)
        finally:
            network.close()

    def _run_on(
        self, cluster: ProcessCluster, network: Network, options: dict[str, Any], rng: random.Random, tell: Tell
    ) -> dict[str, Any]:
        cluster.start()
        cluster.wait_for_leader(START_TIMEOUT)
        first = cluster[cluster.wait_for_leader(START_TIMEOUT)]
        first.manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks", timeout=START_TIMEOUT)
        registers = [f"r{number}" for number in range(options["registers"])]
        cluster.running[0].manage("shell", "-v", "0", "-c", PREPARE.format(registers=registers))
        cluster.wait_all_applied(START_TIMEOUT)
        clients = Clients(cluster, options, registers)
        try:
            faults = self._disturb(cluster, network, rng, options["seconds"], options["every"], tell)
            history, refused = clients.end()
        finally:
            clients.kill()
        report, problems = judge(history)
        return {"faults": faults, **report, "refused": refused, "problems": problems}

    def _disturb(
        self, cluster: ProcessCluster, network: Network, rng: random.Random, seconds: float, every: float, tell: Tell
    ) -> dict[str, int]:
        """Until the time is over, cut one node off (each way, or one way only) or pause it, and let it come back."""
        faults: dict[str, int] = defaultdict(int)
        names = list(cluster.nodes)
        over_at = clock.monotonic() + seconds
        while (left := over_at - clock.monotonic()) > 0:
            clock.sleep(min(rng.uniform(0.2, 0.5) * every, left))
            victim = rng.choice(names)
            what = rng.choice(["cut off", "cut off", "hears nothing", "is not heard", "paused"])
            faults[what] += 1
            tell(f"{victim}: {what}")
            inbound = {(other, victim) for other in names if other != victim}
            outbound = {(victim, other) for other in names if other != victim}
            if what == "paused":
                cluster[victim].pause()
            else:
                network.cut(
                    (inbound if what != "is not heard" else set()) | (outbound if what != "hears nothing" else set())
                )
            clock.sleep(rng.uniform(0.3, 1.7) * every)
            cluster[victim].resume()
            network.cut(())
        return dict(faults)


class Clients:
    """The application processes, one beside each node."""

    def __init__(self, cluster: ProcessCluster, options: dict[str, Any], registers: list[str]) -> None:
        self._records = []
        self._processes = []
        for node in cluster:
            record = node.directory / "history.jsonl"
            barrier = options["mutation"] is None
            work = Work(node.node_id, options["seed"], options["threads"], registers, str(record), barrier)
            process = subprocess.Popen(
                [sys.executable, "-m", "raftlog.testing.trials._reads_client"],
                env=node.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(work) + b"\n")
            process.stdin.flush()
            self._records.append(record)
            self._processes.append(process)
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("a client process ended before it began")

    def end(self) -> tuple[list[Operation], int]:
        """What all of them saw, and how many calls were refused."""
        refused = 0
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            refused += int(process.stdout.read() or b"0")
            if process.wait(END_TIMEOUT):
                raise RuntimeError(f"a client process ended with {process.returncode}")
        texts = [record.read_text() for record in self._records]
        return list(History.from_json_lines("".join(texts))), refused

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def judge(history: list[Operation]) -> tuple[dict[str, Any], list[str]]:
    """(figures, problems) of what the clients saw."""
    bounded = [operation for operation in history if operation.action == "bounded_read"]
    rest = [operation for operation in history if operation.action != "bounded_read"]
    problems = []
    verdict = check(rest, Registers())
    if verdict.counterexample is not None:
        problems.append(f"not linearizable:\n{verdict.counterexample.text()}")
    elif not verdict.is_linearizable:
        problems.append(f"not decided within the checker's limits: {verdict.undecided}")
    problems += list(itertools.islice(too_old(bounded, [each for each in rest if each.action == "write"]), 5))
    reads = [operation for operation in rest if operation.action == "read"]
    report = {
        "writes": len(rest) - len(reads),
        "unknown_writes": sum(operation.is_unknown for operation in rest),
        "linearizable_reads": {
            node: sum(operation.client[0] == node for operation in reads)
            for node in sorted({r.client[0] for r in reads})
        },
        "bounded_reads": len(bounded),
    }
    return report, problems


def too_old(reads: list[Operation], writes: list[Operation]) -> Any:
    """What is wrong with bounded reads: each value that was overwritten, for certain, longer than STALENESS before."""
    of_value = {write.argument: write for write in writes}
    of_register = defaultdict(list)
    for write in writes:
        of_register[write.key].append(write)
    for read in reads:
        written = of_value.get(read.output)
        settled_at = written.returned_at if written is not None else 0.0
        for write in of_register[read.key]:
            if write.invoked_at > settled_at and write.returned_at < read.invoked_at - STALENESS:
                age = read.invoked_at - write.returned_at
                yield f"{read} shows what {write} had overwritten {age:.3f} s before"
                break


TRIAL = Reads
