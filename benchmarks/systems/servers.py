"""Server processes of a system beside ours: started, asked until they are ready, killed by pid.

with Servers(folder) as servers:
    servers.start("a", ["etcd", "--name=a"])
    wait_until(lambda: is_ready(), servers)
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.systems import Target
from raftlog.testing.processes import LAUNCHER, free_ports, node_names

HOST = "127.0.0.1"
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


class Launched:
    """A system whose servers are ours to start and to end."""

    @contextmanager
    def start(self, folder: Path, nodes: int) -> Iterator[Target]:
        with self.launch(folder, nodes) as running:
            yield running.target

    def launch(self, folder: Path, nodes: int) -> AbstractContextManager[Running]:
        """Raises ServerFailed."""
        raise NotImplementedError


def addresses(nodes: int) -> tuple[dict[str, str], dict[str, str]]:
    """Name of each of so many servers -> where clients find it, and where the other servers do."""
    names, ports = node_names(nodes), free_ports(2 * nodes)
    clients, peers = (
        dict(zip(names, (f"{HOST}:{port}" for port in some), strict=True)) for some in (ports[:nodes], ports[nodes:])
    )
    return clients, peers


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def leader_first(places: Mapping[str, str], leader: str) -> tuple[tuple[str, ...], list[str]]:
    """(the addresses, the leader's first; the names of the others in their order)."""
    followers = [name for name in places if name != leader]
    return tuple(places[name] for name in [leader, *followers]), followers


def what_is_missing(programs: Sequence[str] = (), packages: Sequence[str] = ()) -> str:
    """In words, which of the programs and packages of Python is not installed here; "" where all are."""
    missing = [name for name in programs if shutil.which(name) is None]
    missing += [name for name in packages if not version_installed(name)]
    return f"{missing[0]} is not installed" if missing else ""


def version_said(command: Sequence[str]) -> str:
    """The first number with dots that it prints; "" where there is none, or no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        return ""
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else ""


def version_installed(package: str) -> str:
    """Of a package of Python; "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


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
