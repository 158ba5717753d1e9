"""etcd: members on loopback as Debian's package runs them, put through gRPC or through its HTTP/JSON gateway.

Figures say "etcd" of gRPC, which is what its own clients speak, and "etcd-http" of the gateway.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from benchmarks.systems import Client
from benchmarks.systems.json_http import JsonConnection, Refused
from benchmarks.systems.servers import (
    Launched,
    Running,
    Servers,
    addresses,
    leader_first,
    version_installed,
    version_said,
    wait_until,
    what_is_missing,
)

TIMEOUT = 20.0  # seconds for one operation
OUTSTANDING = 1000  # puts under way in a pipeline; more made it slower
PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"

Protocol = Literal["grpc", "http"]


@dataclasses.dataclass(frozen=True)
class EtcdTarget:
    """Addresses of the members' client ports, the leader's first."""

    addresses: tuple[str, ...]
    protocol: Protocol

    def connect(self) -> Client:
        return GrpcClient(self.addresses[0]) if self.protocol == "grpc" else GatewayClient(self.addresses[0])


@dataclasses.dataclass(frozen=True)
class GrpcTarget(EtcdTarget):
    """Of HTTP/1.1 there is no pipeline: the gateway answers one request of a connection after the other."""

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        import grpc

        free = threading.Semaphore(OUTSTANDING)
        answered: list[BaseException | None] = []

        def on_answer(call: Any) -> None:
            answered.append(call.exception())
            free.release()

        with grpc.insecure_channel(self.addresses[0]) as channel:
            put = channel.unary_unary(PUT)
            end = time.monotonic() + seconds
            count = 0
            while time.monotonic() < end:
                free.acquire()
                request = put_request(f"{key}-{count % OUTSTANDING}", b"x" * size)
                put.future(request, timeout=TIMEOUT).add_done_callback(on_answer)
                count += 1
            for _ in range(OUTSTANDING):
                free.acquire()
        for error in answered:
            if error is not None:
                raise error
        return count


class GatewayClient:
    def __init__(self, address: str) -> None:
        self._connection = JsonConnection(address, TIMEOUT)

    def put(self, key: str, value: bytes) -> None:
        self._connection.post("/v3/kv/put", {"key": _text(key.encode()), "value": _text(value)})

    def get(self, key: str) -> bytes | None:
        found = self._connection.post("/v3/kv/range", {"key": _text(key.encode())}).get("kvs")
        return base64.b64decode(found[0].get("value", "")) if found else None

    def close(self) -> None:
        self._connection.close()


class GrpcClient:
    """A channel of its own, so that clients of one process do not share one HTTP/2 connection."""

    def __init__(self, address: str) -> None:
        import grpc

        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._put = self._channel.unary_unary(PUT)
        self._range = self._channel.unary_unary(RANGE)

    def put(self, key: str, value: bytes) -> None:
        self._put(put_request(key, value), timeout=TIMEOUT)

    def get(self, key: str) -> bytes | None:
        answer = self._range(_field(1, key.encode()), timeout=TIMEOUT)
        found = dict(_fields(answer)).get(2)  # RangeResponse.kvs
        return None if found is None else dict(_fields(found)).get(5, b"")  # KeyValue.value

    def close(self) -> None:
        self._channel.close()


def put_request(key: str, value: bytes) -> bytes:
    """etcdserverpb.PutRequest: key = 1, value = 2."""
    return _field(1, key.encode()) + _field(2, value)


def _field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes. Two messages of two fields are not worth a compiler of protocols."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of bytes of a message; its numbers are skipped. Raises ValueError."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        length, at = _read_varint(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + length]
            at += length
        elif tag & 7 != 0:
            raise ValueError(f"wire type {tag & 7} in an answer of etcd")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return number, at


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


@dataclasses.dataclass(frozen=True)
class Etcd(Launched):
    name: str
    protocol: Protocol
    durability: str = "fdatasync of the write-ahead log on a majority"

    def versions(self) -> dict[str, str]:
        return {"etcd": version_said(["etcd", "--version"]), "grpcio": version_installed("grpcio")}

    def missing(self) -> str:
        return what_is_missing(["etcd"], ["grpcio"] if self.protocol == "grpc" else [])

    @contextmanager
    def launch(self, folder: Path, nodes: int) -> Iterator[Running]:
        """Members with etcd's own defaults. Raises ServerFailed."""
        clients, peers = addresses(nodes)
        cluster = ",".join(f"{name}=http://{address}" for name, address in peers.items())
        with Servers(folder) as servers:
            for name in clients:
                options = {
                    "name": name,
                    "data-dir": str(folder / name),
                    "listen-client-urls": f"http://{clients[name]}",
                    "advertise-client-urls": f"http://{clients[name]}",
                    "listen-peer-urls": f"http://{peers[name]}",
                    "initial-advertise-peer-urls": f"http://{peers[name]}",
                    "initial-cluster": cluster,
                    "initial-cluster-state": "new",
                    "logger": "zap",
                    "log-level": "warn",
                }
                servers.start(
                    name, [str(shutil.which("etcd")), *(f"--{key}={value}" for key, value in options.items())]
                )
            found: list[str] = []
            wait_until(
                lambda: bool(found or _leader(clients, found)), servers, OSError, Refused, http.client.HTTPException
            )
            places, followers = leader_first(clients, found[0])
            target = (GrpcTarget if self.protocol == "grpc" else EtcdTarget)(places, self.protocol)
            yield Running(target, servers, followers)


def _leader(clients: dict[str, str], found: list[str]) -> bool:
    """Put the name of the leader into `found`, once every member says that it follows it."""
    ids: dict[str, str] = {}
    leaders = set()
    for name, address in clients.items():
        connection = JsonConnection(address, 2.0)
        try:
            status = connection.post("/v3/maintenance/status", {})
        finally:
            connection.close()
        ids[status["header"]["member_id"]] = name
        leaders.add(status.get("leader", "0"))
    if len(leaders) == 1 and (leader := leaders.pop()) in ids:
        found.append(ids[leader])
    return bool(found)


SYSTEMS = [Etcd("etcd", "grpc"), Etcd("etcd-http", "http")]
