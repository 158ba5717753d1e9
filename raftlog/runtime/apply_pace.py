"""When committed entries are applied: at once, or together with those that will come in a moment.

A transaction of the database costs several times what one more entry in it costs. So entries are gathered where nobody
loses by it: on a node whose callers wait for none of them, for a hundredth of a second; and where some of its callers'
proposals are committed while others are still on their way, for as long as the last batch took. One caller alone, and
whoever reads at an index, waits for nothing.
"""

from __future__ import annotations

from typing import Final

NOBODY_WAITS: Final = 0.010  # seconds between two batches that nobody waits for
LONGEST_REST: Final = 0.005  # seconds, however long the last batch took

NOW: Final = float("-inf")


class ApplyPace:
    """Monitor: held, in every method. Times are monotonic seconds."""

    def __init__(self) -> None:
        # Entries of one batch at most; 0: nothing is gained by gathering them. Set once, by whoever applies.
        self.max_entries = 0
        self._ended_at = float("-inf")
        self._rest = 0.0

    def ended(self, started_at: float, now: float) -> None:
        """A batch that was begun at `started_at` is applied."""
        self._ended_at = now
        self._rest = min(now - started_at, LONGEST_REST)

    def due_at(self, count: int, callers: int, *, is_awaited: bool) -> float:
        """When `count` committed entries are to be applied.

        `callers`: proposals of this node that have no outcome yet. `is_awaited`: somebody waits for just these entries.
        """
        if is_awaited or count >= self.max_entries or 0 < callers <= count:
            return NOW
        return self._ended_at + (self._rest if callers else NOBODY_WAITS)

    def next_look(self, now: float) -> float:
        """When the thread that applies looks by itself for what was gathered; inf: whatever comes is due at once."""
        for moment in (self._ended_at + self._rest, self._ended_at + NOBODY_WAITS):
            if self.max_entries and now < moment:
                return moment
        return float("inf")
