"""When a job is due: `Cron` by the wall clock of a time zone, `Every` so many seconds. Moments are aware, in UTC.

In a zone with summer time each wall time is due once. One that the clocks jump over is due as much later as they jump
(02:30 at what is then 03:30); one that comes twice is due the first time.
"""

from __future__ import annotations

import datetime
import functools
import zoneinfo
from typing import Final, Protocol

from raftlog.contrib.schedule.cron import CronError, parse

UTC: Final = datetime.UTC
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=UTC)
DAY: Final = datetime.timedelta(days=1)
LONGEST: Final = 28 * 366 + 2  # days within which every expression that means a day at all has one
SHORTEST_INTERVAL: Final = 1.0  # seconds


class Times(Protocol):
    def after(self, moment: datetime.datetime) -> datetime.datetime:
        """The first due time after `moment`."""
        ...

    def last(self, moment: datetime.datetime) -> datetime.datetime:
        """The last due time up to `moment`, `moment` included."""
        ...


class Cron:
    """By a cron expression and the wall clock of a time zone (its name; default UTC). Raises CronError."""

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self.expression = expression
        self.timezone = timezone
        self._fields = parse(expression)
        try:
            self._zone = zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise CronError(f"{timezone!r} is no time zone that this host knows: {error}") from None
        self._due_on = functools.lru_cache(maxsize=8)(self._compute)
        self.after = functools.lru_cache(maxsize=8)(self._after)  # asked again and again while it has not come

    def __str__(self) -> str:
        return self.expression if self.timezone == "UTC" else f"{self.expression} ({self.timezone})"

    def _after(self, moment: datetime.datetime) -> datetime.datetime:
        day = moment.astimezone(self._zone).date() - DAY  # what a day's last hours jump to may be on the next
        for _ in range(LONGEST + 1):
            found = [due for due in self._due_on(day) if due > moment]
            if found:
                # A jump at midnight mixes two days.
                return min(found[0], *[due for due in self._due_on(day + DAY) if due > moment] or [found[0]])
            day += DAY
        raise CronError(f"{self.expression!r} is never due after {moment}")

    def last(self, moment: datetime.datetime) -> datetime.datetime:
        day = moment.astimezone(self._zone).date() + DAY
        for _ in range(LONGEST + 1):
            found = [due for due in self._due_on(day) if due <= moment]
            if found:
                return max(found[-1], *[due for due in self._due_on(day - DAY) if due <= moment] or [found[-1]])
            day -= DAY
        raise CronError(f"{self.expression!r} was never due before {moment}")

    def _compute(self, day: datetime.date) -> list[datetime.datetime]:
        """What is due at wall times of this day, in UTC, sorted, each once."""
        if not self._fields.has_day(day):
            return []
        walls = (
            datetime.datetime(day.year, day.month, day.day, hour, minute, tzinfo=self._zone)
            for hour in self._fields.hours
            for minute in self._fields.minutes
        )
        # fold=0: the first of a wall time that comes twice; for one that is jumped over, by the offset before the jump.
        return sorted({wall.astimezone(UTC) for wall in walls})


class Every:
    """Every so many seconds, counted from 1970 in UTC, so that all nodes agree without asking. Raises ValueError."""

    timezone = "UTC"

    def __init__(self, seconds: float) -> None:
        if isinstance(seconds, datetime.timedelta):
            seconds = seconds.total_seconds()
        if not isinstance(seconds, (int, float)) or not SHORTEST_INTERVAL <= seconds <= 366 * 86_400:
            raise ValueError(f"every is {seconds!r}; give {SHORTEST_INTERVAL:g} to {366 * 86_400} seconds")
        self._step = round(seconds * 1e6)  # microseconds: whole numbers stay exact

    def __str__(self) -> str:
        return f"every {self._step / 1e6:g} s"

    def after(self, moment: datetime.datetime) -> datetime.datetime:
        return EPOCH + datetime.timedelta(microseconds=(self._number(moment) + 1) * self._step)

    def last(self, moment: datetime.datetime) -> datetime.datetime:
        return EPOCH + datetime.timedelta(microseconds=self._number(moment) * self._step)

    def _number(self, moment: datetime.datetime) -> int:
        return (moment - EPOCH) // datetime.timedelta(microseconds=1) // self._step
