"""Real node processes on this machine: started, killed, paused, restarted and asked, by demo, benchmarks and tests.

    with ProcessCluster(3, directory) as cluster:
        cluster.start()
        leader = cluster.wait_for_leader(timeout=10)
        cluster[leader].kill()

Each node has a folder of its own under `directory`: log files, SQLite database, and what it printed
(node.log). Whatever ends this process ends the nodes: leaving the `with` block, interpreter exit, and, where the kernel
offers it, even SIGKILL (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raftlog import conf
from raftlog.exceptions import NodeUnavailable, RaftlogError
from raftlog.runtime import clock
from raftlog.transport.client import NodeClient
from raftlog.transport.outstanding import RequestFailed

# Below the range from which Linux takes the ports of outgoing connections: while a node is down its
# peers' attempts to reconnect could otherwise be given its port, and even connect to themselves.
PORTS = range(20_000, 32_000)
POLL_INTERVAL = 0.02  # seconds between two looks at a node's status
STATUS_TIMEOUT = 1.0  # seconds

# Runs before the node does: asks the kernel for SIGKILL when the parent's thread dies, then becomes the node.
LAUNCHER = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
except (OSError, AttributeError):
    pass  # not Linux: leaving the with block and atexit remain
if os.getppid() != int(parent):
    sys.exit("the parent process is gone")
os.execv(command[0], command)
"""


class ProcessTimeout(RaftlogError):
    """A cluster of processes did not reach a state in time; the message says what each node said last."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, and that outgoing connections are not given."""
    chosen: list[int] = []
    source = secrets.SystemRandom()
    for _ in range(200 * count):
        port = source.choice(PORTS)
        if port not in chosen and _is_free(port):
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise OSError(f"found only {len(chosen)} of {count} free ports in {PORTS.start} to {PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def node_names(count: int) -> list[str]:
    """The ids of the nodes of a cluster of `count`: a, b, c …, or n1 … beyond 26."""
    return [chr(ord("a") + n) for n in range(count)] if count <= 26 else [f"n{n + 1}" for n in range(count)]


class NodeProcess:
    """One `manage.py raft run`. Not thread-safe; start() from a thread that outlives the node (the main one)."""

    def __init__(
        self, options: Mapping[str, Any], directory: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.options = dict(options)
        self.settings = conf.load_settings(options)
        self.node_id = self.settings.node_id
        self.address = self.settings.address
        self.directory = directory
        self.database = directory / "db.sqlite3"
        self.log_file = directory / "node.log"
        self.command = list(command)
        self.environment = dict(environment) | {
            "RAFTLOG_NODE_ID": self.node_id,
            "RAFTLOG_DATA_DIR": str(self.settings.data_dir),
            "RAFTLOG_DATABASE": str(self.database),
            "RAFTLOG_OPTIONS": json.dumps(self.options, default=str),
            "PYTHONUNBUFFERED": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.is_paused = False
        # Whether it was started and has not been told to end: then an end is a failure.
        self._should_run = False
        self._client: NodeClient | None = None

    def __repr__(self) -> str:
        return f"<NodeProcess {self.node_id} {self.address} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def http_address(self) -> str:
        return "http" + self.address.removeprefix("ws")

    def manage(self, *arguments: str, timeout: float = 60) -> str:
        """Run another management command with this node's settings; returns what it printed.

        Raises RaftlogError with the output where it ends with an error, subprocess.TimeoutExpired.
        """
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        if done.returncode:
            raise RaftlogError(f"{' '.join(arguments)} on {self.node_id} ended with {done.returncode}:\n{output}")
        return output

    def start(self) -> None:
        """Start it, or start it again; its output is added to `log_file`."""
        if self.is_running:
            raise RaftlogError(f"{self.node_id} is running already (pid {self.pid})")
        self.directory.mkdir(parents=True, exist_ok=True)
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())]
        with self.log_file.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal is this process's to handle, not each node's.
            self.process = subprocess.Popen(
                [*launch, *self.command, "raft", "run"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.is_paused = False
        self._should_run = True

    @property
    def has_died(self) -> bool:
        """Whether it ended though nobody here told it to."""
        return self._should_run and not self.is_running

    def send_signal(self, number: int) -> None:
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            self._should_run = False
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        self.send_signal(signal.SIGKILL)
        self._reap()

    def pause(self) -> None:
        """SIGSTOP: silent, but its connections stay open."""
        self.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)
        self.is_paused = False

    def stop(self, timeout: float = 15) -> int | None:
        """SIGTERM, and SIGKILL where that takes longer than `timeout` seconds; returns the exit code."""
        if self.is_paused:
            self.resume()
        self.send_signal(signal.SIGTERM)
        try:
            return self._reap(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._reap()

    def wait(self, timeout: float) -> int | None:
        """Its exit code once it has ended; None where it still runs after `timeout` seconds."""
        try:
            return self._reap(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Give up the connection of client(); the process is left as it is."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _reap(self, timeout: float | None = None) -> int | None:
        return None if self.process is None else self.process.wait(timeout)

    def client(self) -> NodeClient:
        """A connection to its local socket, made at its first use and again after the node was restarted."""
        if self._client is None:
            settings = self.settings
            self._client = NodeClient(f"unix:{settings.socket_path}", settings.secret_keys, settings.cluster)
        return self._client

    def status(self, timeout: float = STATUS_TIMEOUT) -> dict[str, Any] | None:
        """What it says of itself; None where it does not answer (down, starting, paused)."""
        if not self.is_running or self.is_paused:
            return None
        try:
            answer: dict[str, Any] = self.client().request("status", timeout=timeout)
        except (NodeUnavailable, RequestFailed):
            return None
        return answer

    def output(self, lines: int = 40) -> str:
        """The last lines that it printed."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


class ProcessCluster:
    """Nodes a, b, c … (or n1 … beyond 26), each with a folder under `directory` and a free port."""

    def __init__(
        self,
        count: int,
        directory: Path,
        *,
        settings_module: str = "demo_site.settings",
        command: Sequence[str] = (sys.executable, "-m", "django"),
        options: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        node_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`options` are further keys of RAFTLOG, `environment` further variables, both alike for all nodes.

        `node_options` are keys of RAFTLOG for one node each, by its id.

        The settings module must read RAFTLOG_OPTIONS (a JSON object, all of RAFTLOG) and RAFTLOG_DATABASE (a path).
        """
        names = node_names(count)
        members = {name: f"ws://127.0.0.1:{port}" for name, port in zip(names, free_ports(count), strict=True)}
        shared = {"CLUSTER": "processes", "MEMBERS": members, "SECRET_KEYS": [secrets.token_urlsafe(32)]}
        shared |= options or {}
        variables = dict(os.environ) | {"DJANGO_SETTINGS_MODULE": settings_module} | dict(environment or {})
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        self.directory = directory
        self.nodes: dict[str, NodeProcess] = {}
        for name in names:
            folder = directory / name
            raw = {**shared, "NODE_ID": name, "DATA_DIR": str(folder / "raft")} | dict(
                (node_options or {}).get(name, {})
            )
            self.nodes[name] = NodeProcess(raw, folder, command, variables)
        atexit.register(self.kill_all)

    def new_node(self, name: str) -> NodeProcess:
        """One more, not started: it lists the nodes there are as MEMBERS, and waits to be taken in by them."""
        (port,) = free_ports(1)
        any_node = next(iter(self))
        folder = self.directory / name
        raw = {key: value for key, value in any_node.options.items() if key not in ("BIND", "STATE_MACHINE")}
        raw |= {"NODE_ID": name, "DATA_DIR": str(folder / "raft"), "ADDRESS": f"ws://127.0.0.1:{port}"}
        raw["MEMBERS"] = {each: node.address for each, node in self.nodes.items() if each != name}
        self.nodes[name] = NodeProcess(raw, folder, any_node.command, any_node.environment)
        return self.nodes[name]

    def __enter__(self) -> ProcessCluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getitem__(self, node_id: str) -> NodeProcess:
        return self.nodes[node_id]

    def __iter__(self) -> Iterator[NodeProcess]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def running(self) -> list[NodeProcess]:
        return [node for node in self if node.is_running]

    def make_databases(self, prepare: Callable[[NodeProcess], object] = lambda node: None) -> None:
        """Migrate one node's database, and give every node a copy of it: all start from the same content.

        `prepare` is called with that node before the copies are made.
        """
        first, *others = self
        for node in self:
            node.directory.mkdir(parents=True, exist_ok=True)
        first.manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks")
        prepare(first)
        for node in others:
            for source in first.directory.glob("db.sqlite3*"):
                shutil.copyfile(source, node.directory / source.name)

    def migrate(self, timeout: float = 300) -> None:
        """Make the tables of all nodes, which run, through one of them: with an ENGINE of raftlog's."""
        self.wait_for_leader(timeout)
        self.running[0].manage("migrate", "--verbosity=0", "--skip-checks", timeout=timeout)

    def start(self) -> None:
        for node in self:
            node.start()

    def close(self) -> None:
        """Stop all of them: first by SIGTERM, all at once, then by SIGKILL what is left."""
        atexit.unregister(self.kill_all)
        try:
            for node in self.running:
                node.resume()
                node.send_signal(signal.SIGTERM)
            for node in self:
                node.stop()
        finally:
            self.kill_all()
            for node in self:
                node.close()

    def kill(self, node_ids: Iterable[str]) -> None:
        """SIGKILL to all of them before waiting for any: they go down at once."""
        nodes = [self[node_id] for node_id in node_ids]
        for node in nodes:
            node.send_signal(signal.SIGKILL)
        for node in nodes:
            node.kill()

    def kill_all(self) -> None:
        self.kill(self.nodes)

    # What they say

    def statuses(self) -> dict[str, dict[str, Any] | None]:
        return {node.node_id: node.status() for node in self}

    def refuse_dead(self) -> None:
        """Raises ProcessTimeout at once where a node ended by itself, instead of waiting for it."""
        if dead := [node.node_id for node in self if node.has_died]:
            raise ProcessTimeout(f"{', '.join(dead)} ended without being told to\n{self.describe(self.statuses())}")

    def wait_for(self, reached: Callable[[dict[str, Any]], bool], timeout: float, what: str) -> dict[str, Any]:
        """Poll until `reached` holds of {node id: status or None}; returns them. Raises ProcessTimeout."""
        deadline = clock.monotonic() + timeout
        while True:
            statuses = self.statuses()
            if reached(statuses):
                return statuses
            self.refuse_dead()
            if clock.monotonic() >= deadline:
                raise ProcessTimeout(f"{what}: not within {timeout} s\n{self.describe(statuses)}")
            clock.sleep(POLL_INTERVAL)

    def wait_for_leader(self, timeout: float = 15, *, other_than: Sequence[str] = ()) -> str:
        """The id of the node that says it leads and has committed in its term. Raises ProcessTimeout."""
        statuses = self.wait_for(
            lambda found: leader_of(found, other_than) is not None, timeout, "a leader that has been elected"
        )
        return str(leader_of(statuses, other_than))

    def wait_all_applied(self, timeout: float = 30, *, index: int | None = None) -> int:
        """Until every running node has applied all that is committed (at least `index`); returns that index."""

        def reached(statuses: dict[str, Any]) -> bool:
            found = [statuses[node.node_id] for node in self.running]
            if not found or None in found or leader_of(statuses) is None:
                return False
            committed = max(status["commit_index"] for status in found)
            return committed >= (index or 0) and all(status["last_applied"] == committed for status in found)

        statuses = self.wait_for(reached, timeout, "every running node has applied what is committed")
        return max(int(status["commit_index"]) for status in statuses.values() if status)

    def describe(self, statuses: Mapping[str, Any]) -> str:
        """What each node said last, for a message."""
        lines = []
        for node in self:
            status = statuses.get(node.node_id)
            if status is not None:
                shown = {
                    key: status[key] for key in ("role", "current_term", "leader_id", "commit_index", "last_applied")
                }
                lines.append(f"{node.node_id}: {shown} {status['problems'] or ''}")
            else:
                state = "does not answer" if node.is_running else "is not running"
                lines.append(f"{node.node_id}: {state}; it printed last:\n{node.output(15)}")
        return "\n".join(lines)


def leader_of(statuses: Mapping[str, Any], other_than: Sequence[str] = ()) -> str | None:
    """The leader of the newest term among {node id: status or None}; None where nobody leads."""
    leaders = [
        (status["current_term"], node_id)
        for node_id, status in statuses.items()
        if status is not None and status["role"] == "leader" and node_id not in other_than
    ]
    return max(leaders)[1] if leaders else None
