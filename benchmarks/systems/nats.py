"""NATS JetStream: a key-value bucket with a replica in the files of each server, through nats-py.

By default JetStream acknowledges what a majority has written to its page cache, and syncs every two minutes
(`sync_interval`). `sync_interval: always`, which servers have since 2.10, syncs each write before it is acknowledged:
that is what compares with fsync on a majority.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.systems import Client
from benchmarks.systems.servers import (
    HOST,
    Launched,
    Running,
    ServerFailed,
    Servers,
    addresses,
    leader_first,
    port_of,
    version_installed,
    version_said,
    wait_until,
    what_is_missing,
)

BUCKET = "bench"
TIMEOUT = 20.0  # seconds for one operation
OUTSTANDING = 4000  # puts under way in a pipeline: nats-py's own limit

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class NatsTarget:
    """Addresses of the servers, that of the bucket's leader first."""

    addresses: tuple[str, ...]

    def connect(self) -> Client:
        return NatsClient(self.addresses[0])

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        return asyncio.run(self._pipeline(seconds, size, key))

    async def _pipeline(self, seconds: float, size: int, key: str) -> int:
        """Raises what the server answered to the first put that it did not take."""
        connection = await _connect(self.addresses[0])
        try:
            stream = connection.jetstream(publish_async_max_pending=OUTSTANDING)
            end = time.monotonic() + seconds
            puts: list[asyncio.Future[Any]] = []
            while time.monotonic() < end:
                subject = f"$KV.{BUCKET}.{key}-{len(puts) % OUTSTANDING}"
                puts.append(await stream.publish_async(subject, b"x" * size, wait_stall=TIMEOUT))
            await asyncio.wait_for(asyncio.gather(*puts), TIMEOUT)
            return len(puts)
        finally:
            await connection.close()


class NatsClient:
    """nats-py knows asyncio only: each client runs a loop of its own in its thread, which hands nothing over."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._connection = self._run(_connect(address))
            self._stream = self._connection.jetstream(timeout=TIMEOUT)
            self._bucket = self._run(self._stream.key_value(BUCKET))
        except BaseException:
            self._loop.close()
            raise

    def put(self, key: str, value: bytes) -> None:
        self._run(self._bucket.put(key, value))

    def get(self, key: str) -> bytes | None:
        """The bucket's leader answers, without asking a majority whether it still leads."""
        from nats.js.errors import KeyNotFoundError

        try:
            found: bytes | None = self._run(self._bucket.get(key)).value
        except KeyNotFoundError:
            return None
        return found

    def close(self) -> None:
        self._run(self._connection.close())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)


async def _connect(address: str) -> Any:
    import nats

    async def on_error(error: Exception) -> None:
        """What fails is raised where it was called; nats-py would print it too."""

    return await nats.connect(f"nats://{address}", connect_timeout=2, allow_reconnect=False, error_cb=on_error)


async def _make_bucket(address: str, replicas: int) -> str:
    """The name of the leader of a new bucket, or of one that is there. Raises nats.errors.Error."""
    from nats.js.api import KeyValueConfig, StorageType

    connection = await _connect(address)
    try:
        stream = connection.jetstream(timeout=5)
        await stream.create_key_value(
            KeyValueConfig(bucket=BUCKET, history=1, replicas=replicas, storage=StorageType.FILE, direct=False)
        )
        info = await stream.stream_info(f"KV_{BUCKET}")
        return str(info.cluster.leader or "") if info.cluster else ""
    finally:
        await connection.close()


@dataclasses.dataclass(frozen=True)
class Nats(Launched):
    name: str
    syncs_always: bool
    durability: str

    def versions(self) -> dict[str, str]:
        return {"nats-server": version_said(["nats-server", "--version"]), "nats-py": version_installed("nats-py")}

    def missing(self) -> str:
        why = what_is_missing(["nats-server"], ["nats-py"])
        if not why and self.syncs_always and not _knows_sync_interval():
            return "this nats-server has no sync_interval (2.10 has): it cannot be told to sync before it acknowledges"
        return why

    @contextmanager
    def launch(self, folder: Path, nodes: int) -> Iterator[Running]:
        """Raises ServerFailed."""
        import nats.errors

        clients, routes = addresses(nodes)
        with Servers(folder) as servers:
            for name, client in clients.items():
                config = folder / f"{name}.conf"
                config.write_text(_config(name, client, routes, folder / name, self.syncs_always))
                servers.start(name, [str(shutil.which("nats-server")), "-c", str(config)])
            found: list[str] = []

            def has_leader() -> bool:
                found[:] = [asyncio.run(_make_bucket(next(iter(clients.values())), nodes))]
                return found[0] in clients

            wait_until(has_leader, servers, nats.errors.Error, OSError)
            places, followers = leader_first(clients, found[0])
            yield Running(NatsTarget(places), servers, followers)


def _config(name: str, client: str, routes: Mapping[str, str], folder: Path, syncs_always: bool) -> str:
    """JSON is read by nats-server as its own format is. `routes`: where each server finds the others, by name."""
    store: dict[str, Any] = {"store_dir": str(folder)}
    if syncs_always:
        store["sync_interval"] = "always"
    config = {
        "server_name": name,
        "host": HOST,
        "port": port_of(client),
        "jetstream": store,
        "cluster": {
            "name": "bench",
            "host": HOST,
            "port": port_of(routes[name]),
            "routes": [f"nats://{address}" for other, address in routes.items() if other != name],
        },
    }
    return json.dumps(config, indent=1)


def _knows_sync_interval() -> bool:
    """Whether the server accepts the option: asked, not told from its version. Raises ServerFailed."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "asked.conf"
        config.write_text(_config("a", f"{HOST}:1", {"a": f"{HOST}:2"}, Path(folder) / "a", True))
        command = [str(shutil.which("nats-server")), "-t", "-c", str(config)]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if asked.returncode != 0 and "sync_interval" not in asked.stdout + asked.stderr:
        raise ServerFailed(f"nats-server -t: {asked.stdout}{asked.stderr}")
    return asked.returncode == 0


SYSTEMS = [
    Nats("nats", True, "fsync of each write on a majority (sync_interval: always)"),
    Nats("nats-default", False, "in the page cache of a majority; fsync every two minutes (the default)"),
]
