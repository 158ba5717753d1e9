"""The five fields of cron: minute, hour, day of month, month, day of week; numbers, names, ranges, steps, lists.

As in Vixie's cron: where both day fields are restricted (neither begins with `*`), a day that fits either is meant.
"""

from __future__ import annotations

import datetime
from typing import Final, NamedTuple

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class CronError(ValueError):
    """A cron expression cannot be read, or means no moment at all; the message names the field and what is wrong."""


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("day of week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)


class CronFields(NamedTuple):
    """What an expression allows, each sorted. Days of the week as cron counts them, from 0, Sunday."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def has_day(self, day: datetime.date) -> bool:
        if day.month not in self.months:
            return False
        fits = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return any(fits) if self.either_day else all(fits)


def parse(expression: str) -> CronFields:
    """Raises CronError."""
    text = NICKNAMES.get(expression.strip().lower(), expression)
    parts = text.split()
    if len(parts) != 5:
        known = ", ".join(NICKNAMES)
        raise CronError(f"{expression!r} has {len(parts)} fields; write minute hour day month weekday, or {known}")
    minutes, hours, days, months, weekdays = (
        _values(field, part, expression) for field, part in zip(_FIELDS, parts, strict=True)
    )
    made = CronFields(
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        frozenset(days),
        frozenset(months),
        frozenset(number % 7 for number in weekdays),
        not parts[2].startswith("*") and not parts[4].startswith("*"),
    )
    if not made.either_day and not any(made.has_day(day) for day in _all_kinds_of_days()):
        raise CronError(f"{expression!r} means no day at all: no such month has such a day")
    return made


def _all_kinds_of_days() -> list[datetime.date]:
    """Every combination of month, day and day of the week: they repeat after 28 years."""
    first = datetime.date(2000, 1, 1)
    return [first + datetime.timedelta(days=n) for n in range(28 * 366)]


def _values(field: _Field, text: str, expression: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(field, step_text, expression, step=True) if slash else 1
        if span == "*":
            first, last = field.low, 6 if field.high == 7 else field.high
        else:
            first_text, dash, last_text = span.partition("-")
            first = _number(field, first_text, expression)
            last = _number(field, last_text, expression) if dash else field.high if slash else first
            if field.high == 7 and dash and last == 0 < first:
                last = 7  # fri-sun
            elif field.high == 7 and slash and not dash:
                last = 6
            if last < first:
                raise CronError(f"{expression!r}: the {field.name} {span!r} ends before it begins")
        found.update(range(first, last + 1, step))
    return found


def _number(field: _Field, text: str, expression: str, *, step: bool = False) -> int:
    if not step and text.lower() in field.names:
        return field.names[text.lower()]
    low, what = (1, "step of the ") if step else (field.low, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 4:
        named = f" or {'…'.join([*field.names][:: len(field.names) - 1])}" if field.names and not step else ""
        raise CronError(f"{expression!r}: the {what}{field.name} is {text!r}; use {low} to {field.high}{named}")
    if not low <= int(text) <= field.high:
        raise CronError(f"{expression!r}: the {what}{field.name} is {text}, outside {low} to {field.high}")
    return int(text)
