"""Fifty contenders for one lock, the leader killed again and again, contenders stopped and killed: never two at once.

The contenders write down, on this machine's one clock, each moment at which `fence.check()` passed. The moments of two
tokens must never interleave, and tokens must grow with time: that is what a fence promises, whatever is killed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster
from raftlog.testing.trials import Tell, Trial
from raftlog.testing.trials.chaos import kill_leaders

SETTINGS = "raftlog.testing.bench_site.batteries_settings"
MUTATIONS = ("local-clock-after", "no-expiry")
LONGEST_WAIT = 20.0  # seconds that a contender waits for the lock at most
PATIENCE = 30.0  # seconds beyond that until a contender must have ended


class Held(NamedTuple):
    """The first and the last moment at which somebody surely held the lock with this token."""

    first: float
    last: float
    token: int
    who: str


class LocksTrial(Trial):
    name = "locks"
    help = "contenders for one lock: never two holders with valid fences, whatever is killed or stopped"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--contenders", type=int, default=50, help="threads that want the lock (default: 50)")
        parser.add_argument("--processes", type=int, default=10, help="that they are spread over (default: 10)")
        parser.add_argument("--minutes", type=float, default=2.0, help="(default: 2)")
        parser.add_argument("--ttl", type=float, default=2.0, help="seconds (default: 2)")
        parser.add_argument("--kill-every", type=float, default=8.0, help="seconds between two kills (default: 8)")
        parser.add_argument("--mutation", choices=MUTATIONS, default="", help="break the fence, which must be found")

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        folder = directory / "contenders"
        folder.mkdir()
        with ProcessCluster(options["nodes"], directory, settings_module=SETTINGS) as cluster:
            cluster.start()
            cluster.wait_for_leader(60)
            cluster.migrate()
            cluster.wait_all_applied(60)
            crowd = Crowd(cluster, options, folder, random.Random(rng.random()))
            deadline = clock.monotonic() + options["minutes"] * 60
            nemesis = threading.Thread(target=crowd.torment, args=(deadline,))
            try:
                nemesis.start()
                kills = kill_leaders(
                    cluster, rng, lambda: clock.monotonic() >= deadline, every=options["kill_every"], tell=tell
                )
                nemesis.join()
                stuck = crowd.finish()
            finally:
                crowd.kill_all()
        report = judge(read_logs(folder))
        report["problems"] += stuck
        return {"leader_kills": kills, "stopped": crowd.stopped, "killed": crowd.killed, **report}


class Crowd:
    """The contenders' processes, beside all nodes. Tormented by one thread."""

    def __init__(self, cluster: ProcessCluster, options: dict[str, Any], folder: Path, rng: random.Random) -> None:
        self.nodes = list(cluster)
        self.options = options
        self.folder = folder
        self.rng = rng
        self.stopped = self.killed = 0
        self._started = 0
        self.processes = [self._start(number) for number in range(options["processes"])]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        each, more = divmod(self.options["contenders"], self.options["processes"])
        told = {key: self.options[key] for key in ("ttl", "mutation")}
        told |= {"name": "contended", "folder": str(self.folder), "threads": each + (number < more)}
        told |= {
            "number": number,
            "process": f"p{number}-{self._started}",
            "seed": f"{self.options['seed']}:{self._started}",
        }
        self._started += 1
        with (self.folder / f"p{number}.err").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "raftlog.testing.trials._lock_contender", json.dumps(told)],
                env=self.nodes[number % len(self.nodes)].environment,
                stdin=subprocess.PIPE,
                stderr=errors,
            )

    def torment(self, deadline: float) -> None:
        """Stop one beyond its ttl, or kill one and start another, until the deadline."""
        while clock.monotonic() < deadline:
            clock.sleep(self.rng.uniform(0, 1.5 * self.options["ttl"]))
            number, pause = self._victim()
            process = self.processes[number]
            if self.rng.random() < 0.8:
                process.send_signal(signal.SIGSTOP)
                clock.sleep(pause * self.options["ttl"])
                process.send_signal(signal.SIGCONT)
                self.stopped += 1
            else:
                end(process)
                self.processes[number] = self._start(number)
                self.killed += 1

    def _victim(self) -> tuple[int, float]:
        """Whoever asks or renews next, or got the lock last, or anybody; and the pause, in ttls.

        Who asks is stopped until another has the lock, but not until the answer is given up.
        """
        dice, pause = self.rng.random(), self.rng.uniform(0.9, 1.6)
        number = None
        if dice < 0.5:
            number, pause = self._next_to_send("asking"), self.rng.uniform(1.05, 1.3)
        elif dice < 0.65:
            number = self._next_to_send("renewing")
        elif dice < 0.8:
            number = self._number_in("holder")
        return (self.rng.randrange(len(self.processes)) if number is None else number), pause

    def _next_to_send(self, what: str) -> int | None:
        path = self.folder / what
        before = path.stat().st_mtime_ns if path.exists() else 0
        until = clock.monotonic() + 2 * self.options["ttl"]
        while clock.monotonic() < until:
            if path.exists() and path.stat().st_mtime_ns != before:
                return self._number_in(what)
            clock.sleep(0.001)
        return None

    def _number_in(self, name: str) -> int | None:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):  # nobody has, or it is being written
            return None

    def finish(self) -> list[str]:
        """Let all of them end; what does not in time had a waiter that neither got in nor gave up."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        until = clock.monotonic() + LONGEST_WAIT + PATIENCE
        problems = []
        for number, process in enumerate(self.processes):
            try:
                code = process.wait(max(until - clock.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                problems.append(f"process {number} has a waiter that neither got in nor gave up")
                continue
            if code:
                problems.append(f"process {number} ended with {code}: {self._errors(number)}")
        return problems

    def _errors(self, number: int) -> str:
        return (self.folder / f"p{number}.err").read_text(errors="replace")[-2000:]

    def kill_all(self) -> None:
        for process in self.processes:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


Logs = dict[str, list[tuple[str, int, float]]]


def read_logs(folder: Path) -> Logs:
    """Contender -> (letter, token, time), as written; the last line of one that was killed may be cut off."""
    logs: Logs = {}
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text().split("\n")[:-1]
        logs[path.stem] = [(letter, int(token), float(at)) for letter, token, at in (line.split() for line in lines)]
    return logs


def judge(logs: Logs) -> dict[str, Any]:
    """The report: intervals in which a fence was valid never overlap, and tokens grow."""
    held: list[Held] = []
    counts: Counter[str] = Counter()
    for who, lines in logs.items():
        counts.update(letter for letter, _, _ in lines)
        moments: dict[int, list[float]] = {}
        for letter, token, at in lines:
            if letter == "C":
                moments.setdefault(token, []).append(at)
        held += [Held(min(ats), max(ats), token, who) for token, ats in moments.items()]
    held.sort()
    problems = []
    for before, after in itertools.pairwise(held):
        if before.last >= after.first:
            problems.append(
                f"two valid fences: token {before.token} of {before.who} until {before.last:.3f}, "
                f"token {after.token} of {after.who} from {after.first:.3f}"
            )
        if before.token >= after.token:
            problems.append(f"token {after.token} of {after.who} came after token {before.token} of {before.who}")
    if not held:
        problems.append("nobody ever held the lock")
    return {
        "holds": len(held),
        "checks_passed": counts["C"],
        "lost": counts["L"],
        "timed_out": counts["T"],
        "errors": counts["F"],
        "writes": counts["W"],
        "writes_refused_by_the_resource": counts["R"],
        "problems": problems,
    }


TRIAL = LocksTrial
