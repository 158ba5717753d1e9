"""A bound on bytes a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BURST: Final = 0.1  # seconds' worth of bytes that may go at once


class RateLimit:
    """Used by one thread. `now` is monotonic seconds."""

    def __init__(self, bytes_per_second: float, now: float) -> None:
        self._rate = bytes_per_second
        # When everything so far would have been sent at exactly the rate.
        self._paid_until = now

    def delay(self, size: int, now: float) -> float:
        """Seconds to wait after `size` more bytes."""
        self._paid_until = max(self._paid_until, now - BURST) + size / self._rate
        return max(0.0, self._paid_until - now)


class Speed:
    """Bytes a second over the last few seconds, for display."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._marks = [(monotonic(), 0)]
        self._bytes = 0

    def add(self, size: int) -> None:
        self._bytes += size
        now = self._monotonic()
        if now - self._marks[-1][0] > 0.5:
            self._marks = [*self._marks[-9:], (now, self._bytes)]

    @property
    def value(self) -> float:
        began, before = self._marks[0]
        return (self._bytes - before) / max(self._monotonic() - began, 0.001)
