"""The log time that a leader gives to entries (rule 18 of the design).

Within one leadership it advances by the monotonic clock and is steered towards the wall clock at a
bounded rate, so that a jump of the wall clock never makes sessions expire at once. A new leader
begins at its own wall clock, or at the newest log time where that is later: log time never goes back.
"""

from __future__ import annotations

from typing import Final

MAX_STEERING: Final = 0.1  # of the elapsed time: seconds of correction for each second


class LogClock:
    """Microseconds since the epoch. Not thread-safe: used inside the monitor."""

    def __init__(self) -> None:
        self._term = 0
        self._log_time = 0
        self._read_at = 0.0

    def read(self, term: int, last_log_time: int, now: float, wall: int) -> int:
        """Log time for entries proposed now by the leader of `term`; never below `last_log_time`."""
        if term != self._term:
            self._term = term
            self._log_time = max(last_log_time, wall)
        else:
            elapsed = int((now - self._read_at) * 1_000_000)
            steering = int(elapsed * MAX_STEERING)
            error = wall - (self._log_time + elapsed)
            self._log_time += elapsed + max(-steering, min(steering, error))
            self._log_time = max(self._log_time, last_log_time)
        self._read_at = now
        return self._log_time
