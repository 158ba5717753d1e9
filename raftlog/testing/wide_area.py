"""A network of proxies between nodes that are far apart: each direction of each pair has a delay, a rate and losses.

TCP hides loss, so what a lost segment costs here is time: all that follows on the connection waits until it was sent
again, two round trips later (a probe, and the answer to it). Congestion windows are not modelled: where they limit a
real link, it is slower than this one. Delays are as exact as the event loop's timers, about a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raftlog.testing.torture.network import Pair
from raftlog.testing.torture.proxy import CHUNK_BYTES, ProxyNetwork

SEGMENT_BYTES: Final = 1460
MAX_ON_THE_WAY: Final = 16 << 20  # bytes of one direction, beyond which its sender is held up
RESEND_ROUND_TRIPS: Final = 2


@dataclass(frozen=True, slots=True)
class Link:
    """One direction. Seconds; bytes a second (0: no limit); `loss` is the share of segments that get lost."""

    delay: float
    jitter: float = 0.0
    rate: float = 0.0
    loss: float = 0.0

    def loses(self, size: int, rng: random.Random) -> bool:
        """Whether one of the segments of `size` bytes gets lost."""
        segments = -(-size // SEGMENT_BYTES)
        return self.loss > 0 and rng.random() < 1 - (1 - self.loss) ** segments


class Schedule:
    """When each piece that is sent over a link arrives: never before an earlier one. Not thread-safe."""

    def __init__(self, link: Link, rng: random.Random) -> None:
        self._link = link
        self._rng = rng
        self._sent_until = 0.0  # when the line has taken all there was
        self._arrived_until = 0.0

    def arrival(self, size: int, now: float) -> float:
        """Of `size` bytes that are handed over at `now`; both in seconds of one clock."""
        link = self._link
        self._sent_until = max(now, self._sent_until) + (size / link.rate if link.rate else 0.0)
        arrival = self._sent_until + link.delay + link.jitter * self._rng.random()
        if link.loses(size, self._rng):
            arrival += RESEND_ROUND_TRIPS * 2 * link.delay
        self._arrived_until = max(self._arrived_until, arrival)
        return self._arrived_until


class WideAreaNetwork(ProxyNetwork):
    """`links` gives one for each ordered pair of nodes. `ports`: two for each node. Its loop runs in a thread.

    A connection costs two round trips before its first message (TCP's, and the upgrade to a WebSocket).
    """

    def __init__(
        self, node_ids: Sequence[str], ports: Sequence[int], links: Mapping[Pair, Link], seed: int = 0
    ) -> None:
        self._links = dict(links)
        self._rng = random.Random(seed)
        super().__init__(node_ids, ports)

    async def _pump(self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
        # Clients of another host, such as management commands, are no nodes: nothing holds them up.
        direction = _Direction(self._links.get(pair, Link(0.0)), self._rng)
        if data:  # the hello of the one who connects
            await asyncio.sleep(4 * direction.link.delay)
        deliver = asyncio.ensure_future(self._deliver(pair, direction, writer))
        try:
            with contextlib.suppress(OSError):
                while data or (data := await reader.read(CHUNK_BYTES)):
                    direction.put(data, self._loop.time())
                    data = b""
                    await direction.until_there_is_room()
            direction.put(b"", self._loop.time())
            await deliver
        finally:
            deliver.cancel()

    async def _deliver(self, pair: Pair, direction: _Direction, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, due = await direction.take()
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                while pair in self._cut:
                    await self._changed.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


class _Direction:
    """What is on its way over one connection, one way. Belongs to the loop."""

    def __init__(self, link: Link, rng: random.Random) -> None:
        self.link = link
        self._schedule = Schedule(link, rng)
        self._on_the_way: deque[tuple[bytes, float]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def put(self, data: bytes, now: float) -> None:
        """b"" is the end."""
        self._on_the_way.append((data, self._schedule.arrival(len(data), now)))
        self._bytes += len(data)
        self._changed.set()

    async def until_there_is_room(self) -> None:
        while self._bytes > MAX_ON_THE_WAY:
            await self._wait()

    async def take(self) -> tuple[bytes, float]:
        """(data, when it arrives)."""
        while not self._on_the_way:
            await self._wait()
        data, due = self._on_the_way.popleft()
        self._bytes -= len(data)
        self._changed.set()
        return data, due

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def links_between(
    node_ids: Sequence[str],
    round_trips: Mapping[frozenset[str], float],
    *,
    jitter: float = 0.0,
    rate: float = 0.0,
    loss: float = 0.0,
) -> dict[Pair, Link]:
    """Both directions of every pair, from round trips in seconds of each two nodes."""
    return {
        (source, target): Link(round_trips[frozenset((source, target))] / 2, jitter, rate, loss)
        for source in node_ids
        for target in node_ids
        if source != target
    }
