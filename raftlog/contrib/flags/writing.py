"""Changing flags: rows of the caller's transaction, and who did it."""

from __future__ import annotations

from typing import Any

from django.db import router, transaction
from django.utils import timezone

from raftlog import InsideTransaction, is_applying
from raftlog.contrib.flags import memory
from raftlog.contrib.flags.declared import definition
from raftlog.contrib.flags.models import Flag, FlagChange

LONGEST_BY = 150  # characters


def set(name: str, value: Any = True, *, percentage: float | None = None, by: str = "") -> None:
    """Give a flag a value, in the open transaction if there is one: it holds everywhere once that is committed.

    Args:
        percentage: 0 to 100, for flags of type bool: on for that share of users (flags.enabled(name, user.pk)).
        by: who did it, for the history; at most 150 characters are kept.

    Raises:
        UnknownFlag, TypeError, ValueError: nothing was written.
        InsideTransaction: inside a command.
        TransactionConflict: at the commit, where another transaction changed the same flag.
    """
    found = definition(name)
    checked = found.check(value)
    if percentage is not None:
        if found.kind != "bool" or checked is not True:
            raise ValueError(f"flag {name!r}: a percentage goes with the value True of a flag of type bool only")
        if isinstance(percentage, bool) or not isinstance(percentage, (int, float)) or not 0 <= percentage <= 100:
            raise ValueError(f"flag {name!r}: percentage is {percentage!r}; it must be from 0 to 100")
        percentage = float(percentage)
    _write(name, {"value": checked, "percentage": percentage}, by)


def unset(name: str, *, by: str = "") -> None:
    """Back to the default. A flag that is not defined any more can be unset, too. Raises as set()."""
    _write(name, None, by)


def history(name: str = "", limit: int = 100) -> list[FlagChange]:
    """Changes of one flag, or of all, the newest first."""
    rows = FlagChange.objects.all()
    if name:
        rows = rows.filter(name=name)
    return list(rows[:limit])


def _write(name: str, new: dict[str, Any] | None, by: str) -> None:
    if is_applying():
        raise InsideTransaction(f"flag {name!r} set inside a command: set flags in transactions")
    using = router.db_for_write(Flag)
    with transaction.atomic(using):
        rows = Flag.objects.using(using).select_for_update().filter(pk=name)
        row = rows.first()
        old = None if row is None else {"value": row.value, "percentage": row.percentage}
        if repr(old) == repr(new):  # not by ==, for which True is 1
            return
        if new is None:
            rows.delete()
        elif row is None:
            Flag.objects.using(using).create(name=name, **new)
        else:
            row.value, row.percentage = new["value"], new["percentage"]
            row.save(update_fields=["value", "percentage"])
        FlagChange.objects.using(using).create(name=name, old=old, new=new, by=by[:LONGEST_BY], at=timezone.now())
        transaction.on_commit(memory.committed, using=using)
