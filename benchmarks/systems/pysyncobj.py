"""PySyncObj: Raft as a library, with its journal file. It does not fsync: the journal is a mapped file.

A node is part of an application's process; here each is a process that answers puts over a socket, as an application
would, and runs a pipeline in the leader's own process, where PySyncObj has the shortest way.
`python -m benchmarks.systems.pysyncobj JOB` is one node.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.systems.servers import (
    HOST,
    Launched,
    Running,
    Servers,
    addresses,
    leader_first,
    port_of,
    version_installed,
    wait_until,
    what_is_missing,
)

TIMEOUT = 20.0  # seconds for one operation
OUTSTANDING = 10_000  # puts under way in a pipeline: it sends every 0.1 s, so fewer would be the limit
LENGTH = struct.Struct("<I")


class Job(msgspec.Struct):
    """What one node process is told."""

    address: str
    others: list[str]
    port: int  # of its application
    folder: str
    batches: bool


class Question(msgspec.Struct, array_like=True):
    """ "put", "get", "status", or "pipeline" (then `value` is as long as a put's, and `seconds` says for how long)."""

    verb: str
    key: str = ""
    value: bytes = b""
    seconds: float = 0.0


class Answer(msgspec.Struct, array_like=True):
    """`error` is "" where it was done."""

    error: str = ""
    value: bytes | None = None
    count: int = 0
    leader: str = ""


class Refused(Exception):
    """The command was not committed, or may not have been; the message is PySyncObj's reason."""


@dataclasses.dataclass(frozen=True)
class PySyncObjTarget:
    """Where the applications are found, the leader's first."""

    addresses: tuple[str, ...]

    def connect(self) -> PySyncObjClient:
        return PySyncObjClient(self.addresses[0])

    def pipeline(self, seconds: float, size: int, key: str) -> int:
        client = PySyncObjClient(self.addresses[0], timeout=seconds + TIMEOUT)
        try:
            return client.ask(Question("pipeline", key, b"x" * size, seconds)).count
        finally:
            client.close()


class PySyncObjClient:
    def __init__(self, address: str, timeout: float = TIMEOUT) -> None:
        self._socket = socket.create_connection((HOST, port_of(address)), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def put(self, key: str, value: bytes) -> None:
        self.ask(Question("put", key, value))

    def get(self, key: str) -> bytes | None:
        return self.ask(Question("get", key)).value

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, question: Question) -> Answer:
        """Raises Refused, OSError."""
        self._socket.sendall(_framed(question))
        frame = _read_frame(self._file)
        if frame is None:
            raise Refused("the node closed the connection")
        answer = msgspec.msgpack.decode(frame, type=Answer)
        if answer.error:
            raise Refused(answer.error)
        return answer


def _framed(message: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def _read_frame(file: Any) -> bytes | None:
    head = file.read(LENGTH.size)
    return file.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


@dataclasses.dataclass(frozen=True)
class PySyncObj(Launched):
    name: str
    batches: bool
    durability: str = "in the page cache of a majority: a mapped file, no fsync"

    def versions(self) -> dict[str, str]:
        return {"PySyncObj": version_installed("pysyncobj")}

    def missing(self) -> str:
        return what_is_missing(packages=["pysyncobj"])

    @contextmanager
    def launch(self, folder: Path, nodes: int) -> Iterator[Running]:
        """Raises ServerFailed."""
        applications, peers = addresses(nodes)
        names = {address: name for name, address in peers.items()}
        with Servers(folder) as servers:
            for address, name in names.items():
                (folder / name).mkdir()
                others = [other for other in names if other != address]
                job = Job(address, others, port_of(applications[name]), str(folder / name), self.batches)
                command = [sys.executable, "-m", "benchmarks.systems.pysyncobj", msgspec.json.encode(job).decode()]
                servers.start(name, command)
            found: set[str] = set()

            def has_leader() -> bool:
                found.clear()
                for application in applications.values():
                    client = PySyncObjClient(application, 2.0)
                    try:
                        found.add(client.ask(Question("status")).leader)
                    finally:
                        client.close()
                return len(found) == 1 and found <= names.keys()

            wait_until(has_leader, servers, OSError, Refused)
            places, followers = leader_first(applications, names[found.pop()])
            yield Running(PySyncObjTarget(places), servers, followers)


SYSTEMS = [PySyncObj("pysyncobj", True), PySyncObj("pysyncobj-unbatched", False)]


# In a node's process


def _store() -> Any:
    """A replicated dict whose reads go through the log, since PySyncObj's own read what this node has applied."""
    from pysyncobj import SyncObjConsumer, replicated

    class Store(SyncObjConsumer):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self._data: dict[str, bytes] = {}

        @replicated  # type: ignore[untyped-decorator, unused-ignore]
        def put(self, key: str, value: bytes) -> None:
            self._data[key] = value

        @replicated  # type: ignore[untyped-decorator, unused-ignore]
        def read(self, key: str) -> bytes | None:
            return self._data.get(key)

    return Store()


class Application:
    """A node, and what asks it. PySyncObj's own thread calls back, where the answer is sent from at once."""

    def __init__(self, job: Job) -> None:
        from pysyncobj import SyncObj, SyncObjConf

        self.store = _store()
        conf = SyncObjConf(
            journalFile=f"{job.folder}/journal",
            fullDumpFile=f"{job.folder}/dump",
            appendEntriesUseBatch=job.batches,
            connectionRetryTime=0.5,  # nodes start one after the other; nothing else depends on it
            # Kinder to it than its defaults: with those it rewrites journal and dump every 5,000 entries, which under a
            # pipeline took most of its time, and a busy machine makes it change its leader.
            logCompactionMinEntries=1_000_000,
            raftMinTimeout=1.0,
            raftMaxTimeout=2.0,
        )
        self.node = SyncObj(job.address, job.others, conf=conf, consumers=[self.store])

    def leader(self) -> str:
        found = self.node._getLeader()
        return "" if found is None else str(found.id)

    def pipeline(self, question: Question) -> Answer:
        answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        end = time.monotonic() + question.seconds
        begun = count = 0
        while (working := time.monotonic() < end) or count < begun:
            while working and begun - count < OUTSTANDING:
                key = f"{question.key}-{begun % OUTSTANDING}"
                self.store.put(key, question.value, callback=lambda result, error: answers.put(error))
                begun += 1
            error = answers.get(timeout=TIMEOUT)
            if error:
                return Answer(error=f"PySyncObj's reason {error}")
            count += 1
        return Answer(count=count)


class Handler(socketserver.StreamRequestHandler):
    """One thread for each connection, which has one question under way."""

    disable_nagle_algorithm = True
    wbufsize = 0
    application: Application

    def handle(self) -> None:
        while (frame := _read_frame(self.rfile)) is not None:
            question = msgspec.msgpack.decode(frame, type=Question)
            if question.verb == "put":
                self.application.store.put(question.key, question.value, callback=self.answer)
            elif question.verb == "get":
                self.application.store.read(question.key, callback=self.answer)
            elif question.verb == "status":
                self.send(Answer(leader=self.application.leader()))
            else:
                self.send(self.application.pipeline(question))

    def answer(self, result: bytes | None, error: int) -> None:
        self.send(Answer(error=f"PySyncObj's reason {error}" if error else "", value=result))

    def send(self, answer: Answer) -> None:
        try:
            self.wfile.write(_framed(answer))
        except OSError as error:  # the client is gone: nobody waits for it
            print(f"an answer could not be sent: {error}", file=sys.stderr)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    job = msgspec.convert(json.loads(sys.argv[1]), Job)
    Handler.application = Application(job)
    with Server((HOST, job.port), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        serving.join()


if __name__ == "__main__":
    main()
