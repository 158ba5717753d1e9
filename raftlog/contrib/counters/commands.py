"""What stands in the log: many counters changed at once, and one that is taken away."""

from __future__ import annotations

from typing import Any, Final

from django.db import router

from raftlog import command
from raftlog.contrib.counters.models import Counter

# A counter stays at its limit: SQLite would make a float of it, PostgreSQL an error for all that were added with it.
SMALLEST: Final = -(2**63)
LARGEST: Final = 2**63 - 1


@command(name="raftlog_counters.add")
def add_in_command(ctx: Any, *, changes: dict[str, int]) -> dict[str, int]:
    """Add to each counter what stands beside its name; returns what they are now.

    To count inside a command of one's own: `counters.add_in_command(ctx, changes={"sold": 1})`.
    """
    rows = Counter.objects.using(router.db_for_write(Counter))
    before = dict(rows.filter(pk__in=sorted(changes)).values_list("pk", "value"))
    after = {
        name: min(max(before.get(name, 0) + change, SMALLEST), LARGEST) for name, change in sorted(changes.items())
    }
    rows.bulk_create(
        [Counter(name=name, value=value) for name, value in after.items()],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["value"],
    )
    return after


def refuse_without_table() -> None:
    """Raises DatabaseError before `migrate`: no node could apply the entry, nor that migration, which is after it.

    Where this host has the table, the entry that made it is before what is proposed now.
    """
    Counter.objects.using(router.db_for_write(Counter)).exists()


@command(name="raftlog_counters.remove")
def remove(ctx: Any, *, name: str) -> int:
    """Take a counter away; returns what it was."""
    rows = Counter.objects.using(router.db_for_write(Counter)).filter(pk=name)
    value = rows.values_list("value", flat=True).first()
    rows.delete()
    return 0 if value is None else value
