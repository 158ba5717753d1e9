"""Connections and frames that were refused: counted by close code, and logged without flooding the log."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Final

from raftlog.log_fields import log_fields
from raftlog.runtime import clock
from raftlog.transport.close_codes import BAD_FRAME, BAD_TAG, FRAME_TOO_LARGE, OVERLOADED, REASONS, WRONG_NODE

logger = logging.getLogger("raftlog.transport")

LOG_INTERVAL: Final = 10.0  # seconds between two lines about the same close code
# Why a frame is refused. Each is counted from 0 on: a rate sees the first one.
OF_FRAMES: Final = (BAD_FRAME, BAD_TAG, FRAME_TOO_LARGE, WRONG_NODE, OVERLOADED)
_ALWAYS_A_FRAME: Final = (BAD_FRAME, BAD_TAG, FRAME_TOO_LARGE)  # in the handshake too


class Refusals:
    """Thread-safe. One for each node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()
        self._frames: Counter[int] = Counter(dict.fromkeys(OF_FRAMES, 0))
        self._logged: dict[int, tuple[float, int]] = {}  # code -> (when, count then)

    def record(self, code: int, detail: str, client: str, *, is_frame: bool = False) -> None:
        """Count one connection that is ended, because of a frame or (in the handshake) of who is there.

        It is logged unless a line about the same code is younger than LOG_INTERVAL.
        """
        now = clock.monotonic()
        with self._lock:
            self._counts[code] += 1
            if is_frame or code in _ALWAYS_A_FRAME:
                self._frames[code] += 1
            count = self._counts[code]
            logged_at, logged_count = self._logged.get(code, (float("-inf"), 0))
            if now - logged_at < LOG_INTERVAL:
                return
            self._logged[code] = (now, count)
        more = f" (and {count - logged_count - 1} more since the last such line)" if count - logged_count > 1 else ""
        logger.warning(
            "refused %s: %s: %s (close code %d)%s",
            *(client, REASONS.get(code, "?"), detail, code, more),
            extra=log_fields("connection_refused", peer=client, reason=REASONS.get(code, "?"), code=code),
        )

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> how many connections, since the start."""
        return self._by_reason(self._counts)

    @property
    def frame_counts(self) -> dict[str, int]:
        """The same of those that a frame was the reason for."""
        return self._by_reason(self._frames)

    def as_data(self) -> dict[str, dict[str, int]]:
        """Both, for metrics."""
        return {"connections": self.counts, "frames": self.frame_counts}

    def _by_reason(self, counts: Counter[int]) -> dict[str, int]:
        with self._lock:
            return {REASONS.get(code, str(code)): count for code, count in counts.items()}
