"""What happens to locks, in the log: acquire, renew, release. All that decides stands in the entry and in the tables.

A lock is a semaphore of limit 1. Whoever asks for it is known by an `owner`, a random id for each attempt to hold
it, so that asking twice is asking once. It carries the ttl that is asked for, so that a release can hand the lock over:
"0f3a….30000000", microseconds. Without one (older code on the waiter's host) the waiter asks for it itself.
"""

from __future__ import annotations

import uuid
from typing import Any

from raftlog import command
from raftlog.contrib.locks.exceptions import LockLost
from raftlog.contrib.locks.models import Done, Holder, LockClock, Waiter
from raftlog.models import require_table

KEPT_DONE = 100  # keys of `--once` that are remembered of each lock


def tick(ctx: Any) -> int:
    """Advance the lock clock to this entry, and forget who has expired. Returns its time, in microseconds."""
    require_tables()
    clock = LockClock.objects.filter(pk=1).first()
    if clock is None:
        clock = LockClock(pk=1, term=ctx.term, log_time=ctx.log_time, elapsed=0)
    elif clock.term == ctx.term:
        clock.elapsed += ctx.log_time - clock.log_time
    clock.term, clock.log_time = ctx.term, ctx.log_time
    clock.save()
    for model in (Holder, Waiter):
        model.objects.filter(expires_at__lte=clock.elapsed).delete()
    return clock.elapsed


def require_tables() -> None:
    """Raises a verdict on every node alike: they may have been dropped since whoever proposes this looked."""
    require_table(Holder, "locks")


@command(name="raftlog_locks.acquire", is_numbered=False)
def acquire(
    ctx: Any,
    *,
    name: str,
    owner: str,
    ttl: int,
    patience: int = 0,
    limit: int = 1,
    label: str = "",
    silent: dict[str, int] | None = None,
) -> dict[str, int]:
    """Hold the lock for `ttl` microseconds, or wait in its queue for `patience` (0: don't).

    Who holds it already goes on with the same token; who waits keeps the place. `silent`: owners of this lock that the
    caller has seen unchanged for their whole ttl by its own clock, and the entry by which they were last renewed:
    they are forgotten, unless they have been renewed since. Returns the token (0: not held), the lock clock, and how
    many wait before this owner.
    """
    now = tick(ctx)
    for other, renewed in sorted((silent or {}).items()):
        for model in (Holder, Waiter):
            model.objects.filter(name=name, owner=other, renewed=renewed).exclude(owner=owner).delete()
    if Holder.objects.filter(owner=owner).update(expires_at=now + ttl, ttl=ttl, renewed=ctx.index):
        token = Holder.objects.values_list("token", flat=True).get(owner=owner)
        return {"token": token, "elapsed": now, "ahead": 0}
    waiting = list(Waiter.objects.filter(name=name).order_by("ticket").values_list("owner", flat=True))
    ahead = waiting.index(owner) if owner in waiting else len(waiting)
    row = {"name": name, "owner": owner, "label": label, "renewed": ctx.index, "since": ctx.now}
    if ahead < limit - Holder.objects.filter(name=name).count():
        Waiter.objects.filter(owner=owner).delete()
        Holder.objects.create(token=ctx.index, expires_at=now + ttl, ttl=ttl, **row)
        return {"token": ctx.index, "elapsed": now, "ahead": 0}
    if owner in waiting:
        Waiter.objects.filter(owner=owner).update(expires_at=now + patience, ttl=patience, renewed=ctx.index)
    elif patience:
        Waiter.objects.create(ticket=ctx.index, expires_at=now + patience, ttl=patience, **row)
    return {"token": 0, "elapsed": now, "ahead": ahead}


@command(name="raftlog_locks.renew", is_numbered=False)
def renew(ctx: Any, *, ttls: dict[str, int]) -> list[str]:
    """Hold on for a ttl (microseconds) from now: {owner: ttl}. Returns those owners that still hold."""
    now = tick(ctx)
    return [
        owner
        for owner, ttl in sorted(ttls.items())
        if Holder.objects.filter(owner=owner).update(expires_at=now + ttl, ttl=ttl, renewed=ctx.index)
    ]


@command(name="raftlog_locks.release", is_numbered=False)
def release_only(ctx: Any, *, owners: list[str]) -> int:
    """Neither hold nor wait any more. Returns how many did. While a voter has no newer code, this is proposed."""
    require_tables()
    return sum(model.objects.filter(owner__in=owners).delete()[0] for model in (Holder, Waiter))


@command(name="raftlog_locks.release", version=2, is_numbered=False)
def release(ctx: Any, *, owners: list[str]) -> int:
    """As release_only(), and what was held goes to the first that waits for it, in the same entry.

    One lock in an entry, as its index is the token; those who wait for the others ask for them.
    """
    require_tables()
    freed = list(Holder.objects.filter(owner__in=owners).order_by("token").values_list("name", flat=True))
    count = sum(model.objects.filter(owner__in=owners).delete()[0] for model in (Holder, Waiter))
    for name in freed:
        if Waiter.objects.filter(name=name).exists() and _hand_over(ctx, name, tick(ctx)):
            break
    return count


def _hand_over(ctx: Any, name: str, now: int) -> bool:
    """To the first that waits: there are not more holders than before the release, whatever their limit is."""
    first = Waiter.objects.filter(name=name).order_by("ticket").first()
    ttl = wanted_ttl(first.owner) if first is not None else 0
    if first is None or not ttl:
        return False
    row = {"name": name, "owner": first.owner, "label": first.label, "renewed": ctx.index, "since": ctx.now}
    first.delete()
    Holder.objects.create(token=ctx.index, expires_at=now + ttl, ttl=ttl, **row)
    return True


def new_owner(ttl: int) -> str:
    """A random id for one attempt to hold a lock for `ttl` microseconds. Not in a command."""
    return f"{uuid.uuid4().hex}.{ttl}"


def wanted_ttl(owner: str) -> int:
    """Microseconds; 0: it does not say."""
    digits = owner.partition(".")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0


@command(name="raftlog_locks.force_release", is_numbered=False)
def force_release(ctx: Any, *, name: str, token: int = 0) -> int:
    """Take a lock away from all its holders, or from the one with this token. Returns how many held it."""
    require_tables()
    held = Holder.objects.filter(name=name)
    return (held.filter(token=token) if token else held).delete()[0]


@command(name="raftlog_locks.complete", raises=[LockLost], is_numbered=False)
def complete(ctx: Any, *, name: str, owner: str, key: str) -> None:
    """Note that the step `key` is done, by the holder of the lock. Raises LockLost where it is not held any more."""
    tick(ctx)
    if not Holder.objects.filter(name=name, owner=owner).exists():
        raise LockLost(f"{name!r} was lost before {key!r} could be noted as done")
    if not Done.objects.filter(name=name, key=key).exists():
        Done.objects.create(index=ctx.index, name=name, key=key, at=ctx.now)
    kept = Done.objects.filter(name=name).order_by("-index").values_list("index", flat=True)[:KEPT_DONE]
    Done.objects.filter(name=name, index__lt=min(kept)).delete()
