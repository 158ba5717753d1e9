"""Worker processes beside the nodes, killed, paused for longer than a claim holds, and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from raftlog.runtime import clock
from raftlog.testing.processes import LAUNCHER, ProcessCluster
from raftlog.testing.trials import Tell

STOP_TIMEOUT = 30.0  # seconds


class Workers:
    """`count` of them, beside the nodes by turns. They end with the thread that runs trouble(), which starts them."""

    def __init__(self, cluster: ProcessCluster, count: int, threads: int, directory: Path) -> None:
        self.cluster = cluster
        self.threads = threads
        self.directory = directory
        self.nodes = [node for node, _ in zip(_again(cluster), range(count), strict=False)]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self.kills = self.pauses = 0
        # What they did wrong when they were told to stop.
        self.problems: list[str] = []

    def start(self, number: int) -> None:
        node = self.nodes[number]
        command = [*node.command, "raft", "worker", "--threads", str(self.threads)]
        with (self.directory / f"worker-{number}.log").open("ab") as output:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command],
                env=node.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def trouble(
        self, rng: random.Random, is_over: Callable[[], bool], *, every: float, pause: float, tell: Tell
    ) -> None:
        """Start all; until `is_over()` kill one or pause it for `pause` seconds, every `every` seconds; stop all."""
        for number in range(len(self.processes)):
            self.start(number)
        while not _sleep(every * rng.uniform(0.5, 1.5), is_over):
            number = rng.randrange(len(self.processes))
            process = self.processes[number]
            if process is None or process.poll() is not None:
                tell(f"worker {number} had ended; it is started again")
            elif rng.random() < 0.4:
                self.pauses += 1
                process.send_signal(signal.SIGSTOP)
                _sleep(pause, is_over)
                process.send_signal(signal.SIGCONT)
                continue
            else:
                self.kills += 1
                process.kill()
                process.wait()
            self.start(number)
        self._stop()

    def _stop(self) -> None:
        """SIGTERM to all."""
        running = [(number, process) for number, process in enumerate(self.processes) if process is not None]
        for _, process in running:
            process.send_signal(signal.SIGTERM)
        for number, process in running:
            try:
                code = process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.problems.append(f"worker {number} did not end within {STOP_TIMEOUT:g} s of SIGTERM")
                continue
            if code not in (0, -signal.SIGTERM):  # the latter: it had not begun to work yet
                self.problems.append(f"worker {number} ended with {code} after SIGTERM: {self.output(number)}")

    def kill(self) -> None:
        for process in self.processes:
            if process is not None:
                process.kill()
                process.wait()

    def output(self, number: int) -> str:
        return "\n".join((self.directory / f"worker-{number}.log").read_text(errors="replace").splitlines()[-20:])


def _again(cluster: ProcessCluster):  # type: ignore[no-untyped-def]
    while True:
        yield from cluster


def _sleep(seconds: float, is_over: Callable[[], bool]) -> bool:
    deadline = clock.monotonic() + seconds
    while clock.monotonic() < deadline and not is_over():
        clock.sleep(0.02)
    return is_over()
