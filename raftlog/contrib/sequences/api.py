"""Drawing numbers: in the caller's transaction as a change of one row, or inside a command."""

from __future__ import annotations

import datetime
from typing import Any, Final, Literal

from django.db import router, transaction
from django.db.models import F
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from raftlog import is_applying
from raftlog.contrib.sequences.models import Sequence

MAX_NAME: Final = 100  # characters
LARGEST: Final = 2**63 - 1

Restart = Literal["never", "year", "month", "day"]
_PERIODS: Final = {"never": "", "year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}


def next_number(name: str, *, restart: Restart = "never", at: datetime.date | None = None) -> int:
    """The next number of a sequence, from 1, as part of the open transaction: used if and only if that commits.

    Args:
        name: at most 100 characters, without ":". A name that is new is a sequence that begins.
        restart: "year", "month" or "day": it begins at 1 with each.
        at: the date (or datetime) that says which year, month or day; default: now, in the current time zone.

    Raises:
        TransactionManagementError: no transaction is open (of the alias that holds the sequences), or a command is
            being applied, which uses draw().
        TransactionConflict: at the commit, where a concurrent transaction drew from the same sequence; run it again.
        ValueError: a name, restart or date that is none.

    Thread-safe: transactions are.
    """
    key = key_of(name, restart, _today(restart, at))
    using = router.db_for_write(Sequence)
    if is_applying():
        raise TransactionManagementError(
            f"next_number({name!r}) inside a command, which runs on every node: use sequences.draw(ctx, {name!r})"
        )
    if not transaction.get_connection(using).in_atomic_block:
        raise TransactionManagementError(
            f"next_number({name!r}) outside a transaction: a number is used if and only if its transaction commits. "
            f"Put it and what it numbers into one `with transaction.atomic({_shown(using)}):`"
        )
    return _advance(key, using)


def next_label(
    name: str, form: str, *, restart: Restart = "never", at: datetime.date | None = None, **values: Any
) -> str:
    """As next_number(), as text: next_label("invoice", "{year}-{number:04}", restart="year") -> "2026-0001".

    `form` is a format string over number, year, month, day, name, and `values`. Raises ValueError where it is none.
    """
    moment = _today("day", at)
    check_form(form, values)
    return format_label(form, next_number(name, restart=restart, at=moment), name, moment, values)


def draw(ctx: Any, name: str, *, restart: Restart = "never", at: datetime.date | None = None) -> int:
    """The next number inside a command: no conflicts, however many draw at once; nothing if the command fails.

    `ctx` is the command's context; `at` is by default its time, in UTC. Raises as next_number().
    """
    return _advance(key_of(name, restart, at or ctx.now), router.db_for_write(Sequence))


def draw_label(
    ctx: Any, name: str, form: str, *, restart: Restart = "never", at: datetime.date | None = None, **values: Any
) -> str:
    """As next_label(), inside a command."""
    moment = at or ctx.now
    check_form(form, values)
    return format_label(form, draw(ctx, name, restart=restart, at=moment), name, moment, values)


def last_number(name: str, *, restart: Restart = "never", at: datetime.date | None = None) -> int:
    """The number that was used last, as far as this host's database knows; 0 where none was."""
    key = key_of(name, restart, _today(restart, at))
    found = Sequence.objects.filter(pk=key).values_list("last", flat=True).first()
    return 0 if found is None else found


def reset(
    name: str,
    last: int = 0,
    *,
    restart: Restart = "never",
    at: datetime.date | None = None,
    may_repeat: bool = False,
) -> None:
    """Say what counts as used last: the next number is `last` + 1. Part of the open transaction, if there is one.

    Forward it leaves a gap. Backward it gives numbers again that may be in use, and is refused with ValueError unless
    `may_repeat`: only who knows that those numbers are free may say so.
    """
    if isinstance(last, bool) or not isinstance(last, int) or not 0 <= last < LARGEST:
        raise ValueError(f"reset({name!r}): last is {last!r}; it must be a whole number from 0 to {LARGEST - 1}")
    key = key_of(name, restart, _today(restart, at))
    using = router.db_for_write(Sequence)
    with transaction.atomic(using):
        row, is_new = Sequence.objects.using(using).select_for_update().get_or_create(pk=key, defaults={"last": last})
        if is_new or row.last == last:
            return
        if last < row.last and not may_repeat:
            raise ValueError(
                f"reset({name!r}): {row.last} is used, and from {last + 1} on numbers would be given again; where they "
                "are free, say may_repeat=True"
            )
        row.last = last
        row.save(update_fields=["last"])


# How it is kept


def _advance(key: str, using: str) -> int:
    """One row moves on by one. First the UPDATE: where nobody would run this again, it takes the cluster's turn."""
    rows = Sequence.objects.using(using)
    if rows.filter(pk=key, last__lt=LARGEST).update(last=F("last") + 1):
        return int(rows.values_list("last", flat=True).get(pk=key))
    if rows.filter(pk=key).exists():
        raise ValueError(f"the sequence {key!r} is at its end: {LARGEST} is used")
    # Should a concurrent transaction begin the same sequence, one of them is a UniqueConflict, and runs again.
    return rows.create(pk=key, last=1).last


def key_of(name: str, restart: str, at: datetime.date | None) -> str:
    """The primary key of its row. Raises ValueError."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or ":" in name or "\0" in name:
        raise ValueError(f"the sequence's name is {name!r}; it must be text of 1 to {MAX_NAME} characters without ':'")
    if restart not in _PERIODS:
        raise ValueError(f"sequence {name!r}: restart is {restart!r}; it must be one of {', '.join(_PERIODS)}")
    if restart == "never":
        return name
    if not isinstance(at, datetime.date):
        raise ValueError(f"sequence {name!r}: at is {at!r}; it must be a date or a datetime")
    return f"{name}:{at.strftime(_PERIODS[restart])}"


def _today(restart: str, at: datetime.date | None) -> datetime.date | None:
    if at is not None or restart == "never":
        return at
    now = timezone.now()
    return timezone.localtime(now) if timezone.is_aware(now) else now


def check_form(form: str, values: dict[str, Any]) -> None:
    """Before a number is drawn: an error of the form would else show only with the first document."""
    format_label(form, 1, "x", datetime.date(2000, 1, 1), values)


def format_label(form: str, number: int, name: str, at: datetime.date | None, values: dict[str, Any]) -> str:
    """Raises ValueError, naming the form."""
    known = {"number": number, "name": name}
    if at is not None:
        known |= {"year": at.year, "month": at.month, "day": at.day}
    try:
        return form.format(**values | known)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the form {form!r} of sequence {name!r} cannot be filled in ({type(error).__name__}: {error}); it may "
            f"name {', '.join(sorted({*known, *values}))}"
        ) from error


def _shown(using: str) -> str:
    return "" if using == "default" else repr(using)
