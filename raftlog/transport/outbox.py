"""What waits to be sent on one inbound connection: filled by any thread, emptied by the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from raftlog.transport.frames import FrameWriter

T = TypeVar("T")
Send = Callable[[Any], Awaitable[None]]


class Outbox(Generic[T]):
    """Coalesces: whatever waits when the loop comes around leaves in one frame.

    put() from any thread; the rest on the loop's thread.
    """

    def __init__(
        self,
        writer: FrameWriter[T],
        send: Send,
        limit: int,
        on_sent: Callable[[Sequence[T]], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._send = send
        self._limit = limit
        self._on_sent = on_sent
        self._on_overflow = on_overflow
        self._waiting: deque[T] = deque()
        # True from a put() that scheduled _wake until _wake runs. Two threads may both find it False: harmless.
        self._scheduled = False
        self._closed = False
        self._wakeup: asyncio.Future[None] | None = None
        self._overflowed = False

    def put(self, message: T) -> None:
        """Send `message` soon. Where `limit` messages wait already it is dropped and `on_overflow` called, once."""
        if self._closed:
            return
        if len(self._waiting) >= self._limit:
            self._overflowed = True
        else:
            self._waiting.append(message)
        # Set before the loop is woken, cleared before it takes what waits: no message is left behind.
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop was closed: the process is ending
                self._closed = True

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()

    def _wake(self) -> None:
        self._scheduled = False
        if self._overflowed and not self._closed:
            self.close()
            self._on_overflow()
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def run(self) -> None:
        """Send what there is, until the task is cancelled."""
        while True:
            if not self._waiting:
                self._wakeup = self._loop.create_future()
                await self._wakeup
                self._wakeup = None
                continue
            messages = []
            while self._waiting:
                messages.append(self._waiting.popleft())
            for frame in self._writer.frames(messages):
                await self._send({"type": "websocket.send", "bytes": bytes(frame)})
            self._on_sent(messages)
