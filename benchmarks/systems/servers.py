"""Server processes of a system beside ours: started, asked until they are ready, killed by pid.

with Servers(folder) as servers:
    servers.start("a", ["etcd", "--name=a"])
    wait_until(lambda: is_ready(), 30, servers)
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.systems import Target
from raftlog.testing.processes import LAUNCHER

START_TIMEOUT = 60.0  # seconds until a system elects a leader and takes its first write
POLL_INTERVAL = 0.05  # seconds


class ServerFailed(Exception):
    """A server ended, or was not ready in time; the message has what it said last."""


class Servers:
    """Processes that end with the block, and with this process. For the thread that started them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Servers:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in self.processes:
            self.kill(name)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """What it prints goes to NAME.log in the folder."""
        with self._log_file(name).open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        self.processes[name].kill()
        self.processes[name].wait()

    def check(self) -> None:
        """Raises ServerFailed where one has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise ServerFailed(f"{name} ended with {process.returncode}; it said: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        return self._log_file(name).read_text(errors="replace")[-1000:].strip() or "nothing"

    def _log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@dataclasses.dataclass(frozen=True)
class Running:
    """A started system: where clients connect, its processes, and the names of those that do not lead."""

    target: Target
    servers: Servers
    followers: list[str]


def wait_until(
    is_so: Callable[[], bool], servers: Servers, *errors: type[Exception], timeout: float = START_TIMEOUT
) -> None:
    """Ask until it is so; `errors` mean "not yet". Raises ServerFailed."""
    deadline = time.monotonic() + timeout
    said = ""
    while time.monotonic() < deadline:
        servers.check()
        try:
            if is_so():
                return
        except errors as error:
            said = f"{type(error).__name__}: {error}"
        time.sleep(POLL_INTERVAL)
    words = "; ".join(f"{name}: {servers.last_words(name)[-300:]}" for name in servers.processes)
    raise ServerFailed(f"not ready after {timeout:g} s {said}; {words}")
