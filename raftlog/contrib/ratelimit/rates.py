"""`"10/m"` as tokens and time."""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

PERIODS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
MOST: Final = 1_000_000
_RATE: Final = re.compile(r"([1-9]\d{0,6})/(\d{0,5})([smhd])[a-z]*", re.ASCII)


class Rate(NamedTuple):
    """`burst` tokens, of which one comes back every `interval` microseconds."""

    burst: int
    interval: int

    @property
    def period(self) -> float:
        """Seconds."""
        return self.burst * self.interval / 1e6


@functools.lru_cache(maxsize=1024)
def parse_rate(text: str) -> Rate:
    """`"10/m"`, `"100/15min"`, `"5/s"`, `"1000/d"`. Raises ValueError."""
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    count, times, unit = match.groups() if match else ("", "", "")
    if not match or int(count) > MOST or times == "0" * len(times) != "":
        raise ValueError(
            f"the rate is {text!r}; write how many (at most {MOST}), a slash, and s, m, h or d: '10/m', '100/15min'"
        )
    # Rounded up, so that never more than the rate is let through.
    interval = -(-int(times or 1) * PERIODS[unit] * 1_000_000 // int(count))
    return Rate(int(count), interval)
