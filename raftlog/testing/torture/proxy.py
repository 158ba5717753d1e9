"""A network of TCP proxies: for machines where namespaces cannot be made.

Peers connect to a node's proxy, and the first frame that they send, the handshake's hello, says who they
are. What is cut is held back, not lost (a real network's TCP would send it again), and connections stay open.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from raftlog.testing.torture.network import Pair
from raftlog.transport.handshake import Hello

CHUNK_BYTES: Final = 64 * 1024


class ProxyNetwork:
    """`ports`: two for each node, the proxy's and the node's own. Its loop runs in a thread."""

    kind = "proxy"

    def __init__(self, node_ids: Sequence[str], ports: Sequence[int]) -> None:
        self._proxy_ports = dict(zip(node_ids, ports[: len(node_ids)], strict=True))
        self._node_ports = dict(zip(node_ids, ports[len(node_ids) :], strict=True))
        self.members = {node_id: f"ws://127.0.0.1:{port}" for node_id, port in self._proxy_ports.items()}
        # Belongs to the loop's thread, like all of the proxies.
        self._cut: frozenset[Pair] = frozenset()
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="torture-proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def node_options(self) -> dict[str, dict[str, Any]]:
        return {node_id: {"BIND": f"127.0.0.1:{port}"} for node_id, port in self._node_ports.items()}

    def command_prefix(self, node_id: str) -> list[str]:
        return []

    def cut(self, pairs: Iterable[Pair]) -> None:
        self._loop.call_soon_threadsafe(self._set_cut, frozenset(pairs))

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # The loop's thread

    def _main(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # closed transports let go of their sockets in the next round of the loop

    def _set_cut(self, pairs: frozenset[Pair]) -> None:
        self._cut = pairs
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        for node_id, port in self._proxy_ports.items():
            self._servers.append(await asyncio.start_server(self._taker(node_id), "127.0.0.1", port))

    def _taker(self, target: str) -> Any:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._carry(target, reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.MsgspecError):
                pass  # one of the two ends is gone, or it was no node: the connection ends
            finally:
                self._tasks.discard(task)
                writer.close()

        return take

    async def _carry(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._node_ports[target])
        try:
            far_writer.write(request)
            writer.write(await far_reader.readuntil(b"\r\n\r\n"))
            frame, hello = await read_masked_frame(reader)
            source = msgspec.msgpack.decode(hello, type=Hello).node_id
            there = asyncio.ensure_future(self._pump((source, target), reader, far_writer, frame))
            back = asyncio.ensure_future(self._pump((target, source), far_reader, writer, b""))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in (there, back):
                    pump.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            far_writer.close()

    async def _pump(self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                while pair in self._cut:
                    await self._changed.wait()
                writer.write(data)
                await writer.drain()
                data = await reader.read(CHUNK_BYTES)
                if not data:
                    return


async def read_masked_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next WebSocket frame of a client: (as it came, its payload)."""
    head = await reader.readexactly(2)
    length = head[1] & 0x7F
    if length >= 126:
        extended = await reader.readexactly(2 if length == 126 else 8)
        length = int.from_bytes(extended, "big")
        head += extended
    mask = await reader.readexactly(4)
    data = await reader.readexactly(length)
    return head + mask + data, bytes(byte ^ mask[position % 4] for position, byte in enumerate(data))
