"""The network between the nodes of a torture run, which can be cut for each ordered pair of nodes.

- `NamespaceNetwork`: each node in a network namespace of its own, on one bridge. What is cut is lost
  without a word, like on a real network, one way too. Needs root on Linux. The namespaces belong to
  open file descriptors of this process and have no names: they go with it, whatever ends it.
- `ProxyNetwork`: each node behind a TCP proxy in this process, which holds bytes back and keeps
  connections open. Needs nothing.

Local sockets of the nodes do not pass through either: clients reach a node that is cut off.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from raftlog.exceptions import RaftlogError
from raftlog.testing.processes import free_ports

Pair = tuple[str, str]  # (from, to)

PORT: Final = 8000
COMMAND_TIMEOUT: Final = 30.0  # seconds
_CLONE_NEWNET: Final = 0x40000000
_NOBODY: Final = "02:00:00:00:00:fe"  # a hardware address that no node has


class NetworkUnavailable(RaftlogError):
    """This kind of network cannot be made here; the message says why."""


class Network(Protocol):
    kind: str
    # RAFTLOG["MEMBERS"]
    members: dict[str, str]

    def node_options(self) -> dict[str, dict[str, Any]]:
        """Further keys of RAFTLOG, for each node."""
        ...

    def command_prefix(self, node_id: str) -> list[str]:
        """What stands before the command of this node's process."""
        ...

    def cut(self, pairs: Iterable[Pair]) -> None:
        """From now on nothing gets through from the first of each pair to the second, and all else does."""
        ...

    def close(self) -> None: ...


def make_network(kind: str, node_ids: Sequence[str]) -> Network:
    """`kind`: netns, proxy, or auto (netns where it is possible). Raises NetworkUnavailable."""
    from raftlog.testing.torture.proxy import ProxyNetwork

    if kind == "proxy":
        return ProxyNetwork(node_ids, free_ports(2 * len(node_ids)))
    try:
        return NamespaceNetwork(node_ids)
    except NetworkUnavailable:
        if kind == "netns":
            raise
        return ProxyNetwork(node_ids, free_ports(2 * len(node_ids)))


class NamespaceNetwork:
    """Node number n has 10.79.1.n in its namespace. Neighbour entries are fixed: a cut is a wrong one of them."""

    kind = "netns"

    def __init__(self, node_ids: Sequence[str]) -> None:
        for tool in ("ip", "nsenter"):
            if shutil.which(tool) is None:
                raise NetworkUnavailable(f"network namespaces need the command {tool!r}, which is not installed")
        self._numbers = {node_id: number for number, node_id in enumerate(node_ids, 1)}
        self._cut: set[Pair] = set()
        self._descriptors: dict[str, int] = {}
        try:
            for name in ("", *node_ids):  # "": the one with the bridge
                self._descriptors[name] = _new_namespace()
            self._connect()
        except BaseException:
            self.close()
            raise
        self.members = {node_id: f"ws://{self._address(node_id)}:{PORT}" for node_id in node_ids}

    def _address(self, node_id: str) -> str:
        return f"10.79.1.{self._numbers[node_id]}"

    def _hardware(self, node_id: str) -> str:
        return f"02:00:00:00:01:{self._numbers[node_id]:02x}"

    def _path(self, name: str) -> str:
        return f"/proc/{os.getpid()}/fd/{self._descriptors[name]}"

    def _connect(self) -> None:
        bridge = ["link add br0 type bridge", "link set br0 up"]
        for node_id, number in self._numbers.items():
            bridge.append(f"link add v{number} type veth peer name eth0 netns {self._path(node_id)}")
            bridge.append(f"link set v{number} master br0 up")
        self._ip("", bridge)
        for node_id in self._numbers:
            setup = [
                "link set lo up",
                f"link set eth0 address {self._hardware(node_id)} up",
                f"address add {self._address(node_id)}/24 dev eth0",
            ]
            self._ip(node_id, setup + [self._neighbour(node_id, other) for other in self._numbers if other != node_id])

    def _neighbour(self, source: str, target: str) -> str:
        hardware = _NOBODY if (source, target) in self._cut else self._hardware(target)
        return f"neighbour replace {self._address(target)} lladdr {hardware} dev eth0 nud permanent"

    def _ip(self, name: str, commands: list[str]) -> None:
        command = ["nsenter", f"--net={self._path(name)}", "ip", "-batch", "-"]
        text = "\n".join(commands) + "\n"
        try:
            done = subprocess.run(
                command, input=text, text=True, capture_output=True, timeout=COMMAND_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NetworkUnavailable(f"{' '.join(command)}: {error}") from error
        if done.returncode:
            raise NetworkUnavailable(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}\n{text}")

    def node_options(self) -> dict[str, dict[str, Any]]:
        return {}

    def command_prefix(self, node_id: str) -> list[str]:
        return [shutil.which("nsenter") or "nsenter", f"--net={self._path(node_id)}"]

    def cut(self, pairs: Iterable[Pair]) -> None:
        before, self._cut = self._cut, set(pairs)
        for source in self._numbers:
            changed = [target for (other, target) in before ^ self._cut if other == source]
            if changed:
                self._ip(source, [self._neighbour(source, target) for target in changed])

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}


def _new_namespace() -> int:
    """A descriptor of a new, empty network namespace. Raises NetworkUnavailable."""
    if platform.system() != "Linux":
        raise NetworkUnavailable(f"network namespaces need Linux, and this is {platform.system()}")
    found: list[int] = []
    problems: list[str] = []

    def make() -> None:
        # In a thread of its own: unshare() moves the calling thread, and only that one.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            problems.append(os.strerror(ctypes.get_errno()))
            return
        try:
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            problems.append(str(error))

    thread = threading.Thread(target=make, name="torture-namespace")
    thread.start()
    thread.join()
    if not found:
        raise NetworkUnavailable(f"a network namespace cannot be made: {problems[0]}")
    return found[0]
