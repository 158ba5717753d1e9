"""The client processes of a torture run: started, killed, replaced and ended. For the main thread only."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from raftlog.runtime import clock
from raftlog.testing.processes import LAUNCHER, NodeProcess, ProcessCluster
from raftlog.testing.torture.asking import NodeAddress, Work
from raftlog.testing.torture.orm_client import OrmWork

STOP_TIMEOUT = 60.0  # seconds: a call may be given up no sooner than Work.give_up


class Clients:
    """`count` processes at any time; each gets a name of its own, also when it replaces one that was killed."""

    def __init__(
        self, cluster: ProcessCluster, directory: Path, count: int, threads: int, seed: int, *, orm: bool = False
    ) -> None:
        """`orm`: applications that use the ORM (orm_client), each beside one node; else they propose commands."""
        self._cluster = cluster
        self._orm = orm
        self.directory = directory
        self._count = count
        self._threads = threads
        self._seed = seed
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.started = 0
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start those that are missing."""
        while len(self._running) < self._count:
            self._start_one()

    def _start_one(self) -> None:
        names = list(self._cluster.nodes)
        node = self._cluster[names[self.started % len(names)]]
        self.started += 1
        name = f"c{self.started}"
        module, work = self._work(name, node)
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())]
        with (self.directory / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(
                [*launch, sys.executable, "-m", module],
                env=node.environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(work) + b"\n")
        process.stdin.flush()
        self._running[name] = process

    def _work(self, name: str, node: NodeProcess) -> tuple[str, Work | OrmWork]:
        record = str(self.directory / f"{name}.jsonl")
        if self._orm:
            orm_work = OrmWork(name, self._seed, node.node_id, record, threads=self._threads)
            return "raftlog.testing.torture.orm_client", orm_work
        work = Work(
            client=name,
            seed=self._seed,
            cluster=node.settings.cluster,
            secret_keys=[key.decode() for key in node.settings.secret_keys],
            nodes={n.node_id: NodeAddress(str(n.settings.socket_path), str(n.database)) for n in self._cluster},
            attached=node.node_id,
            record=record,
            threads=self._threads,
            public=self.started % 2 == 0,
        )
        return "raftlog.testing.torture.client", work

    def pause_one(self, rng: random.Random) -> str:
        """SIGSTOP; returns the name of the one paused."""
        name = rng.choice(sorted(self._running))
        self._running[name].send_signal(signal.SIGSTOP)
        return name

    def resume(self, name: str) -> None:
        """SIGCONT, if it has not been killed meanwhile."""
        if name in self._running:
            self._running[name].send_signal(signal.SIGCONT)

    def kill_one(self, rng: random.Random) -> str:
        """SIGKILL, and another takes its place; returns the name of the one killed."""
        name = rng.choice(sorted(self._running))
        self._end(name)
        self._start_one()
        return name

    def look_for_the_dead(self) -> list[str]:
        """What is to be said of clients that ended by themselves; others take their places."""
        found = []
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                found.append(f"client {name} ended by itself with exit code {process.returncode}:\n{self.output(name)}")
                self._end(name)
                self._start_one()
        return found

    def stop(self) -> list[str]:
        """Let all finish what they are doing; returns what is to be said of those that did not."""
        found = []
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()
        deadline = clock.monotonic() + STOP_TIMEOUT
        for name, process in list(self._running.items()):
            try:
                code = process.wait(max(0.1, deadline - clock.monotonic()))
                if code:
                    found.append(f"client {name} ended with exit code {code}:\n{self.output(name)}")
            except subprocess.TimeoutExpired:
                found.append(f"client {name} did not end within {STOP_TIMEOUT:g} s:\n{self.output(name)}")
            self._end(name)
        return found

    def close(self) -> None:
        for name in list(self._running):
            self._end(name)

    def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def output(self, name: str, lines: int = 20) -> str:
        text = (self.directory / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])
