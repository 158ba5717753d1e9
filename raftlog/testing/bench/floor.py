"""The floor: what one message through a Daphne consumer and one sync of a small append cost on this machine, now.

A replicated command needs at least one of each, so that figures are judged as multiples of their sum.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from raftlog.runtime import clock
from raftlog.storage.filesystem import RealFileSystem
from raftlog.testing.processes import free_ports

MESSAGE_BYTES = 256
FILE_BYTES = 4 << 20
CONNECT_TIMEOUT = 15.0  # seconds
WARM_UP = 50  # measurements that do not count

_SERVER = """
import sys
from channels.consumer import AsyncConsumer
from daphne.server import Server

class Echo(AsyncConsumer):
    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": event["bytes"]})

async def application(scope, receive, send):
    await Echo()(scope, receive, send)

Server(application, endpoints=[f"tcp:{sys.argv[1]}:interface=127.0.0.1"], signal_handlers=False).run()
"""


def consumer_round_trip(seconds: float) -> float:
    """Median seconds of one message of 256 bytes to a raw consumer on Daphne in another process, and back."""
    [port] = free_ports(1)
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(port)], stdout=subprocess.DEVNULL)
    try:
        message = b"x" * MESSAGE_BYTES
        with connected(port) as connection:

            def round_trip() -> None:
                connection.send(message)
                connection.recv()

            return median_seconds(round_trip, seconds)
    finally:
        server.kill()
        server.wait()


def connected(port: int) -> ClientConnection:
    """A WebSocket to a server that may just be starting. Raises OSError after CONNECT_TIMEOUT."""
    deadline = clock.monotonic() + CONNECT_TIMEOUT
    while True:
        try:
            return connect(f"ws://127.0.0.1:{port}/", compression=None, proxy=None)
        except OSError:
            if clock.monotonic() > deadline:
                raise
            clock.sleep(0.05)


def sync_of_a_small_append(folder: Path, seconds: float) -> float:
    """Median seconds of a write of 256 bytes and its fdatasync, in a file whose length does not change."""
    files = RealFileSystem()
    path = str(folder / "floor")
    file = files.create(path, FILE_BYTES)
    try:
        file.pwrite(bytes(FILE_BYTES), 0)
        file.sync()
        offset = 0

        def append() -> None:
            nonlocal offset
            file.pwrite(b"x" * MESSAGE_BYTES, offset)
            file.sync()
            offset = (offset + MESSAGE_BYTES) % FILE_BYTES

        return median_seconds(append, seconds)
    finally:
        file.close()
        files.remove(path)


def median_seconds(action: Callable[[], None], seconds: float) -> float:
    """Repeat for `seconds`; median of one."""
    for _ in range(WARM_UP):
        action()
    taken = []
    end = clock.monotonic() + seconds
    before = clock.monotonic()
    while before < end:
        action()
        after = clock.monotonic()
        taken.append(after - before)
        before = after
    return statistics.median(taken)
