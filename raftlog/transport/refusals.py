"""Connections that were refused: counted by close code, and logged without flooding the log."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Final

from raftlog.log_fields import log_fields
from raftlog.runtime import clock
from raftlog.transport.close_codes import REASONS

logger = logging.getLogger("raftlog.transport")

LOG_INTERVAL: Final = 10.0  # seconds between two lines about the same close code


class Refusals:
    """Thread-safe. One for each node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()
        self._logged: dict[int, tuple[float, int]] = {}  # code -> (when, count then)

    def record(self, code: int, detail: str, client: str) -> None:
        """Count one refusal; log it unless a line about the same code is younger than LOG_INTERVAL."""
        now = clock.monotonic()
        with self._lock:
            self._counts[code] += 1
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
        """Reason -> how many, since the start."""
        with self._lock:
            return {REASONS.get(code, str(code)): count for code, count in self._counts.items()}
