"""What stands in the log: tokens taken out of a bucket, by log time (the generic cell rate algorithm, GCRA).

A bucket holds `burst` tokens and gets one back every `interval` microseconds. Its one number is the time at which it
will be full again.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import router

from raftlog import command
from raftlog.contrib.ratelimit.models import Bucket

PRUNE_ONE_IN: Final = 64  # entries that take tokens
PRUNED: Final = 1_000  # rows at once, about


@command(name="raftlog_ratelimit.take", is_numbered=False)
def take(ctx: Any, *, name: str, tokens: int, at_least: int, burst: int, interval: int) -> dict[str, int]:
    """Take `tokens`, or as many as there are, if those are `at_least` so many; else none.

    Returns how many were taken, how many are left, and after how many microseconds there will be enough
    (where none were taken).
    """
    buckets = Bucket.objects.using(router.db_for_write(Bucket))
    now = ctx.log_time
    found = buckets.filter(pk=name).values_list("full_at", flat=True).first()
    left = tokens_left(found, now, burst, interval)
    taken = min(tokens, left) if left >= at_least else 0
    if not taken:
        return {"taken": 0, "left": left, "wait": wait_for(found, now, at_least, burst, interval)}
    buckets.bulk_create(
        [Bucket(name=name, full_at=max(found or 0, now) + taken * interval)],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["full_at"],
    )
    if ctx.random.random() < 1 / PRUNE_ONE_IN:
        _prune(buckets, now)
    return {"taken": taken, "left": left - taken, "wait": 0}


@command(name="raftlog_ratelimit.forget", is_numbered=False)
def forget(ctx: Any, *, name: str) -> bool:
    """The bucket is full again. Returns whether it was not."""
    return Bucket.objects.using(router.db_for_write(Bucket)).filter(pk=name).delete()[0] > 0


def tokens_left(full_at: int | None, now: int, burst: int, interval: int) -> int:
    return max((burst * interval - max((full_at or 0) - now, 0)) // interval, 0)


def wait_for(full_at: int | None, now: int, tokens: int, burst: int, interval: int) -> int:
    """Microseconds until so many tokens are there; 0: they are."""
    return max((full_at or 0) + (tokens - burst) * interval - now, 0)


def _prune(buckets: Any, now: int) -> None:
    """Rows of buckets that are full again: as if they had never been there. Chosen by time, the same on every node."""
    full = buckets.filter(full_at__lte=now).order_by("full_at").values_list("full_at", flat=True)
    last = next(iter(full[PRUNED - 1 : PRUNED]), now)
    buckets.filter(full_at__lte=last).delete()
