"""Exactly-once: every job is done once, though whoever asks for it is killed, cut off, and asks again.

Several application processes beside each node have jobs: commands and transactions that count, and add a row. Each job
has two of them that ask for it, under one idempotency key, on different hosts, and each asks until it has an answer.
Meanwhile they are killed by SIGKILL at random, and others take their places; their connections are cut; and the leader
is killed every few seconds. At the end each job's row is there once, the counters have counted them all, everybody was
told the same number, and all nodes hold the same.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec

from raftlog import conf
from raftlog.runtime import clock
from raftlog.testing.cutting import CuttingProxy
from raftlog.testing.once_site.client import OnceWork, answered, read_journal
from raftlog.testing.processes import NodeProcess, ProcessCluster
from raftlog.testing.trials import Tell, Trial
from raftlog.testing.trials.chaos import kill_leaders

SETTINGS: Final = "raftlog.testing.once_site.settings"
COPIES: Final = 2  # processes that ask for the same job
LOOK_INTERVAL: Final = 0.05  # seconds
KILL_CLIENT_EVERY: Final = 4.0  # seconds, on average
CUT_EVERY: Final = 1.0
TABLES: Final = ("once_site_done", "once_site_counter", "raftlog_idempotencykey")


class ExactlyOnce(Trial):
    name = "exactly-once"
    help = "commands and transactions retried by processes that are killed, with the leader killed: each done once"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--proposals", type=int, default=1000, help="commands (default: 1000)")
        parser.add_argument("--transactions", type=int, default=1000, help="(default: 1000)")
        parser.add_argument("--clients", type=int, default=2, help="application processes a node (default: 2)")
        parser.add_argument("--kill-every", type=float, default=5.0, help="seconds between leaders killed (default: 5)")
        parser.add_argument("--think", type=float, default=0.2, help="seconds between two jobs (default: 0.2)")
        parser.add_argument("--timeout", type=float, default=900.0, help="seconds for the whole (default: 900)")
        parser.add_argument("--mutation", choices=("no-key",), help="a broken variant, which must be found")

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        jobs = [f"c{n}" for n in range(options["proposals"])] + [f"t{n}" for n in range(options["transactions"])]
        raft = {"PROPOSAL_TIMEOUT": 3.0}
        with ProcessCluster(options["nodes"], directory, settings_module=SETTINGS, options=raft) as cluster:
            cluster.start()
            cluster.wait_for_leader(60)
            next(iter(cluster)).manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks", timeout=120)
            began = clock.monotonic()
            clients = Clients(cluster, jobs, directory, random.Random(rng.random()), options)
            try:
                clients.start()
                tell(f"{len(jobs)} jobs, asked for by {len(clients.works)} processes, {COPIES} for each job")
                every = options["kill_every"]
                kills = kill_leaders(cluster, rng, clients.are_over, every=every, tell=tell)
            finally:
                clients.close()
            took = clock.monotonic() - began
            cluster.wait_all_applied(60)
            contents = {node.node_id: read(node) for node in cluster}
        problems = clients.problems + judge(jobs, contents, clients.told())
        report = clients.report() | {"leaders_killed": kills, "seconds": round(took, 1)}
        return report | {"nodes_equal": len(set(map(repr, contents.values()))) == 1, "problems": problems}


class Clients:
    """The application processes, and the thread that kills them and cuts their connections."""

    def __init__(
        self, cluster: ProcessCluster, jobs: list[str], directory: Path, rng: random.Random, options: dict[str, Any]
    ) -> None:
        self.problems: list[str] = []
        self.killed = self.cut = 0
        self._directory = directory
        self._rng = rng
        self._deadline = clock.monotonic() + options["timeout"]
        nodes = list(cluster)
        self._proxies = {node.node_id: self._proxy(node) for node in nodes}
        self._nodes = [node for _ in range(options["clients"]) for node in nodes]
        count = len(self._nodes)
        shared: list[list[str]] = [[] for _ in range(count)]
        for job in jobs:
            for client in rng.sample(range(count), min(COPIES, count)):
                shared[client].append(job)
        keyed = options["mutation"] != "no-key"
        self.works = [
            OnceWork(mine, str(directory / f"journal-{n}"), 0, keyed=keyed, think=options["think"])
            for n, mine in enumerate(shared)
        ]
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        # How many answers there were when each was started.
        self._answered: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="clients")

    def _proxy(self, node: NodeProcess) -> tuple[dict[str, Any], CuttingProxy]:
        """RAFTLOG of the node's clients: their way to its socket leads through the proxy."""
        folder = self._directory / f"{node.node_id}-clients"
        folder.mkdir(exist_ok=True)
        raw = {**node.options, "DATA_DIR": str(folder)}
        return raw, CuttingProxy(conf.load_settings(raw).socket_path, node.settings.socket_path)

    def start(self) -> None:
        for number in range(len(self.works)):
            self._start(number)
        self._thread.start()

    def _start(self, number: int) -> None:
        node, work = self._nodes[number], self.works[number]
        self._answered[number] = len(answered(Path(work.journal)))
        raw = self._proxies[node.node_id][0]
        environment = node.environment | {"RAFTLOG_OPTIONS": msgspec.json.encode(raw).decode()}
        with (self._directory / f"client-{number}.log").open("ab") as output:
            self._running[number] = process = subprocess.Popen(
                [sys.executable, "-m", "raftlog.testing.once_site.client"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(msgspec.structs.replace(work, seed=self._rng.randrange(2**31))) + b"\n")
        process.stdin.close()

    def are_over(self) -> bool:
        return self._over.is_set()

    def _watch(self) -> None:
        next_kill, next_cut = self._soon(KILL_CLIENT_EVERY), self._soon(CUT_EVERY)
        try:
            while self._running:
                clock.sleep(LOOK_INTERVAL)
                self._look_for_ends()
                now = clock.monotonic()
                if now > self._deadline:
                    self.problems.append(f"{len(self._running)} clients had not all their answers in time")
                    return
                if now > next_kill and self._running:
                    self._kill_one()
                    next_kill = self._soon(KILL_CLIENT_EVERY)
                if now > next_cut:
                    self._cut_some()
                    next_cut = self._soon(CUT_EVERY)
        finally:
            self._over.set()

    def _soon(self, seconds: float) -> float:
        return clock.monotonic() + seconds * self._rng.uniform(0.2, 1.8)

    def _kill_one(self) -> None:
        """One that has had an answer since it was started: however slow the machine is, it all comes to an end."""
        had_answers = [n for n in sorted(self._running) if self._has_answered(n)]
        if not had_answers:
            return
        number = self._rng.choice(had_answers)
        process = self._running[number]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed += 1
        self._start(number)

    def _has_answered(self, number: int) -> bool:
        return len(answered(Path(self.works[number].journal))) > self._answered[number]

    def _cut_some(self) -> None:
        """The connections of one node's clients: of one that has any."""
        for node in self._rng.sample(self._nodes, len(self._nodes)):
            ended = self._proxies[node.node_id][1].cut()
            self.cut += ended
            if ended:
                return

    def _look_for_ends(self) -> None:
        for number, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[number]
            if code:
                log = (self._directory / f"client-{number}.log").read_text(errors="replace").splitlines()
                self.problems.append(f"client {number} ended with {code}: " + "\n".join(log[-15:]))

    def close(self) -> None:
        if self._thread.is_alive():
            self._thread.join(5 if self._over.is_set() else 0)
        for process in list(self._running.values()):
            process.kill()
            process.wait()
        if self._thread.ident is not None:
            self._thread.join()
        for _, proxy in self._proxies.values():
            proxy.close()

    def told(self) -> dict[str, set[str]]:
        """Job -> the numbers that its callers were told."""
        found: dict[str, set[str]] = {}
        for work in self.works:
            for job, number in answered(Path(work.journal)).items():
                found.setdefault(job, set()).add(number)
        return found

    def report(self) -> dict[str, Any]:
        lines = [line for work in self.works for line in read_journal(Path(work.journal))]
        tries = Counter(line[1] for line in lines if line[0] == "?")
        return {
            "jobs": len(tries),
            "tries": tries.total(),
            "retried_jobs": sum(count > 1 for count in tries.values()),
            "answers": sum(line[0] == "=" for line in lines),
            "without_answer": dict(Counter(line[2] for line in lines if line[0] == "!")),
            "clients_killed": self.killed,
            "connections_cut": self.cut,
        }


def read(node: NodeProcess) -> dict[str, list[Any]]:
    connection = sqlite3.connect(f"file:{node.database}?mode=ro", uri=True)
    try:
        return {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}
    finally:
        connection.close()


def judge(jobs: list[str], contents: dict[str, dict[str, list[Any]]], told: dict[str, set[str]]) -> list[str]:
    """What does not hold, in words."""
    problems = []
    for node_id, tables in contents.items():
        done = Counter(job for _, job, _ in tables["once_site_done"])
        several = sorted(job for job, count in done.items() if count > 1)
        missing = sorted(set(jobs) - set(done))
        if several:
            problems.append(f"{node_id}: {len(several)} jobs were done more than once: {', '.join(several[:8])} …")
        if missing:
            problems.append(f"{node_id}: {len(missing)} jobs were not done: {', '.join(missing[:8])} …")
        for name, kind in (("commands", "c"), ("transactions", "t")):
            counted = dict(tables["once_site_counter"]).get(name, 0)
            rows = sum(count for job, count in done.items() if job.startswith(kind))
            if counted != rows:
                problems.append(f"{node_id}: the counter of {name} says {counted}, there are {rows} rows")
        numbers = {job: str(number) for _, job, number in tables["once_site_done"]}
        wrong = sorted(job for job, heard in told.items() if heard != {numbers.get(job)})
        if wrong:
            problems.append(
                f"{node_id}: of {len(wrong)} jobs callers were told other numbers: {', '.join(wrong[:8])} …"
            )
    if len(set(map(repr, contents.values()))) > 1:
        problems.append("the nodes do not hold the same")
    unanswered = sorted(set(jobs) - set(told))
    if unanswered:
        problems.append(f"{len(unanswered)} jobs have no answer: {', '.join(unanswered[:8])} …")
    return problems


TRIAL = ExactlyOnce
