"""What the writers did: which commands were acknowledged, and when. The truth that the databases are held to."""

import threading
from collections import deque
from itertools import pairwise

from raftlog.runtime import clock


class Ledger:
    """Hands out `total` references, of them `payments` for payments, and notes how each ended. Thread-safe."""

    def __init__(self, total: int, payments: int = 0) -> None:
        self.total = total
        self._lock = threading.Lock()
        self._next = {"transfer": 0, "payment": 0}
        self._last = {"transfer": total - payments, "payment": payments}
        self._acknowledged: dict[str, float] = {}  # reference -> moment of the acknowledgement
        self._times: list[float] = []  # ascending
        self._refused: set[str] = set()
        self._unknown: set[str] = set()
        self._errors: deque[str] = deque(maxlen=5)

    def take(self, kind: str = "transfer") -> str | None:
        """The next reference to write, of a "transfer" or a "payment"; None when there is none left."""
        with self._lock:
            if self._next[kind] >= self._last[kind]:
                return None
            self._next[kind] += 1
            return f"{kind}-{self._next[kind]:06}"

    def acknowledge(self, reference: str) -> None:
        with self._lock:
            now = clock.monotonic()
            self._acknowledged[reference] = now
            self._times.append(now)

    def refuse(self, reference: str) -> None:
        """The command itself raised, which is an answer too: it changed nothing."""
        with self._lock:
            self._refused.add(reference)

    def give_up(self, reference: str, error: BaseException) -> None:
        """No answer: it may have been applied, once, or not."""
        with self._lock:
            self._unknown.add(reference)
            self._errors.append(f"{reference}: {type(error).__name__}: {error}")

    @property
    def acknowledged(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._acknowledged)

    @property
    def refused(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._refused)

    @property
    def unknown(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._unknown)

    @property
    def errors(self) -> list[str]:
        with self._lock:
            return list(self._errors)

    @property
    def acknowledged_count(self) -> int:
        return len(self._acknowledged)

    @property
    def answered_count(self) -> int:
        return len(self._acknowledged) + len(self._refused) + len(self._unknown)

    def longest_gap(self, since: float, until: float) -> float:
        """Seconds of the longest time without an acknowledgement that overlaps `since`..`until`."""
        with self._lock:
            times = list(self._times)
        pairs = pairwise(times)
        return max((later - earlier for earlier, later in pairs if later >= since and earlier <= until), default=0.0)
