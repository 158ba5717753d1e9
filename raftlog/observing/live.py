"""The node tells whoever watches: once a second, and at once when an election or a change of members happens.

It runs on the event loop that serves the node. What it tells goes through the project's channel layer, which may be
Redis where app processes are several; without CHANNEL_LAYERS through one in memory, which reaches the pages that the
node itself serves. Nothing durable depends on it: where the layer fails, pages say that live updates are off.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from channels.layers import InMemoryChannelLayer, get_channel_layer

from raftlog.log_fields import log_fields
from raftlog.runtime import clock
from raftlog.runtime.measures import BUCKETS

logger = logging.getLogger("raftlog.live")

LIVE_PATH: Final = "/raft/live/"
INTERVAL: Final = 1.0  # seconds between two samples
WATCHED: Final = 10.0  # seconds that the cluster is looked at after somebody has said that they watch
QUICK: Final = 0.05  # seconds between two looks while events come in quick succession
KEPT: Final = 300  # samples
LOG_INTERVAL: Final = 60.0  # seconds between two lines about a layer that fails


@cache
def _own_layer() -> InMemoryChannelLayer:
    return InMemoryChannelLayer()


def layer() -> Any:
    """The project's channel layer, or one in this process's memory."""
    return get_channel_layer() or _own_layer()


def group(cluster: str, node_id: str) -> str:
    """Who follows this node. Names of groups may hold letters, digits, hyphens, underscores and periods only."""
    text = f"{cluster}.{node_id}"
    return "raftlog." + "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in text)[:80]


class Live:
    """run() on the event loop; watched() and wake() from any thread.

    Args:
        look: the report on the whole cluster; blocks. It is called in a thread, and only while somebody watches.
        sample: (commit index, measures of the stages, term, leader) now. Must not block.
    """

    def __init__(
        self,
        group_name: str,
        look: Callable[[], dict[str, Any]],
        sample: Callable[[], tuple[int, Mapping[str, Any], int, str]],
    ) -> None:
        self._group = group_name
        self._look = look
        self._sample = sample
        self.samples: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._before: tuple[float, int, list[int]] | None = None
        self._watched_until = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._warn_at = float("-inf")

    def watched(self) -> list[dict[str, Any]]:
        """Somebody watches. Returns the samples so far."""
        self._watched_until = clock.monotonic() + WATCHED
        return list(self.samples)

    def wake(self) -> None:
        """Something has happened that people want to see at once."""
        loop, woken = self._loop, self._woken
        if loop is not None and woken is not None and not loop.is_closed():
            loop.call_soon_threadsafe(woken.set)

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong with it, the node goes on; it is logged."""
        try:
            await self._run()
        except Exception:
            logger.exception("live updates have ended", extra=log_fields("live_off"))

    async def _run(self) -> None:
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()
        next_sample = clock.monotonic()
        while True:
            now = clock.monotonic()
            if now >= next_sample:
                self.samples.append(self._take_sample(now))
                next_sample = now + INTERVAL
            if now < self._watched_until:
                await self._tell()
            try:
                await asyncio.wait_for(self._woken.wait(), max(next_sample - clock.monotonic(), 0.0))
                await asyncio.sleep(QUICK)
            except TimeoutError:
                continue
            finally:
                self._woken.clear()

    async def _tell(self) -> None:
        try:
            report = await asyncio.to_thread(self._look)
            message = {"type": "raftlog.report", "report": report, "sample": self.samples[-1] if self.samples else None}
            await layer().group_send(self._group, message)
        except Exception as error:  # noqa: BLE001  (of whichever layer the project uses; the node goes on)
            now = clock.monotonic()
            if now >= self._warn_at:
                self._warn_at = now + LOG_INTERVAL
                logger.warning(
                    "live updates are off: %s: %s",
                    *(type(error).__name__, error),
                    extra=log_fields("live_off", reason=f"{type(error).__name__}: {error}"),
                )

    def _take_sample(self, now: float) -> dict[str, Any]:
        commit_index, stages, term, leader_id = self._sample()
        counts = stages["total"]["counts"]
        rate = 0.0
        latencies: list[float | None] = [None, None]
        if self._before is not None:
            then, index, before = self._before
            rate = max(commit_index - index, 0) / max(now - then, 0.001)
            latencies = quantiles([count - old for count, old in zip(counts, before, strict=True)], (0.5, 0.99))
        self._before = (now, commit_index, list(counts))
        at = clock.wall_microseconds() / 1_000_000
        sample = {"at": at, "commit_index": commit_index, "per_second": round(rate, 1), "term": term}
        return sample | {"leader_id": leader_id, "p50": latencies[0], "p99": latencies[1]}


def quantiles(counts: list[int], wanted: tuple[float, ...]) -> list[float | None]:
    """Seconds, between the bounds of a bucket in proportion; None where nothing was counted."""
    total = sum(counts)
    if not total:
        return [None] * len(wanted)
    found: list[float | None] = []
    for share in wanted:
        rank, so_far = share * total, 0
        for number, count in enumerate(counts):
            if count and so_far + count >= rank:
                low = BUCKETS[number - 1] if number else 0.0
                high = BUCKETS[number] if number < len(BUCKETS) else low
                found.append(round(low + (high - low) * (rank - so_far) / count, 6))
                break
            so_far += count
    return found
