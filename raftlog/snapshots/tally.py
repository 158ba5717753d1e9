"""How often images were made, pulled and installed since the start, how it went, and what it took: for metrics."""

from __future__ import annotations

import threading
from typing import Any, Final

STEPS: Final = ("make", "pull", "install")
DONE: Final = "done"
FAILED: Final = "failed"
GIVEN_UP: Final = "given_up"  # what was pulled is not what is needed any more
OUTCOMES: Final = (DONE, FAILED, GIVEN_UP)


class Tally:
    """Of one node. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, dict[str, Any]] = {
            step: dict.fromkeys(OUTCOMES, 0) | {"bytes": 0, "seconds": 0.0} for step in STEPS
        }

    def ended(self, step: str, outcome: str, seconds: float, size: int = 0) -> None:
        """One attempt is over. `size`: bytes of the image, where they are not told by moved()."""
        with self._lock:
            counts = self._steps[step]
            counts[outcome] += 1
            counts["seconds"] += max(0.0, seconds)
            counts["bytes"] += size

    def moved(self, step: str, size: int) -> None:
        """So many more bytes, whatever comes of them."""
        with self._lock:
            self._steps[step]["bytes"] += size

    def as_data(self) -> dict[str, dict[str, Any]]:
        """Step -> {"done", "failed", "given_up": counts, "bytes", "seconds"}."""
        with self._lock:
            return {step: dict(counts) for step, counts in self._steps.items()}
