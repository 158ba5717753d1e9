"""The cache beside django-redis, and rate limits beside a limiter of Redis INCR and EXPIRE."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from raftlog.testing.bench import redis_side
from raftlog.testing.bench.batteries import Row, rate
from raftlog.testing.processes import ProcessCluster

HERE = "raftlog.testing.bench.battery_cache"
VALUE = {"name": "a value as pages cache it", "numbers": list(range(20)), "text": "x" * 200}
KEYS = 200  # below MAX_ENTRIES
MANY = 100


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for name, action, unit, threads in (
        ("get()", "get", "reads", 1),
        ("get()", "get", "reads", 4),
        ("set()", "set_one", "writes", 1),
        ("set()", "set_one", "writes", 4),
        (f"set_many() of {MANY}", "set_many", "keys", 1),
        ("set(), FIRE_AND_FORGET", "set_and_forget", "writes", 4),
        ("incr()", "incr", "additions", 4),
    ):
        run = partial(_run, cluster, action, seconds, threads)
        beside, theirs = redis_side.side("django-redis", partial(run, "redis"), "django_redis")
        ours = run("ours")
        rows.append((f"{name}, {threads} thread{'s' if threads > 1 else ''}", unit, ours, beside, theirs))
    return rows + _limits(cluster, seconds)


def _run(cluster: ProcessCluster, action: str, seconds: float, threads: int, side: str) -> float:
    return rate(cluster, f"{HERE}:{action}", seconds, threads=threads, arguments={"side": side})


def _limits(cluster: ProcessCluster, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for name, arguments in (
        ("ratelimit(), allowed", {"limit": "1000000/s"}),
        ("ratelimit(approximate=True), allowed", {"limit": "1000000/s", "approximate": True}),
        ("ratelimit(), refused", {"limit": "1/d"}),
    ):
        beside, theirs = redis_side.side(
            "Redis INCR + EXPIRE", lambda: rate(cluster, f"{HERE}:redis_limit", seconds, threads=4)
        )
        ours = rate(cluster, f"{HERE}:our_limit", seconds, threads=4, arguments=arguments)
        rows.append((f"{name}, 4 threads", "checks", ours, beside, theirs))
    return rows


# Actions of an application process


def _cache(side: str) -> Any:
    from django.core.cache import caches

    return caches["raftlog" if side == "ours" else "redis"]


def get(side: str) -> Callable[[], int]:
    cache = _cache(side)
    cache.set("bench", VALUE, None)

    def act() -> int:
        _cache(side).get("bench")
        return 1

    return act


def set_one(side: str) -> Callable[[], int]:
    keys = itertools.cycle(f"bench-{n}" for n in range(KEYS))

    def act() -> int:
        _cache(side).set(next(keys), VALUE, 300)
        return 1

    return act


def set_and_forget(side: str) -> Callable[[], int]:
    """Counts a block once the last of it is in the log: incr() comes after all that its process has written."""
    from django.core.cache import caches

    _cache(side).set("bench-number", 0, None)

    def act() -> int:
        cache = caches["raftlog-hasty"] if side == "ours" else _cache(side)
        for n in range(KEYS):
            cache.set(f"bench-{n}", VALUE, 300)
        cache.incr("bench-number")
        return KEYS

    return act


def set_many(side: str) -> Callable[[], int]:
    values = {f"bench-{n}": VALUE for n in range(MANY)}

    def act() -> int:
        _cache(side).set_many(values, 300)
        return MANY

    return act


def incr(side: str) -> Callable[[], int]:
    _cache(side).set("bench-number", 0, None)

    def act() -> int:
        _cache(side).incr("bench-number")
        return 1

    return act


def our_limit(limit: str, approximate: bool = False) -> Callable[[], int]:
    from raftlog import ratelimit

    def act() -> int:
        ratelimit(f"bench {limit}", limit, approximate=approximate)
        return 1

    return act


def redis_limit() -> Callable[[], int]:
    """A fixed window, as most such limiters have it: one round trip."""
    client = redis_side.connect()

    def act() -> int:
        pipeline = client.pipeline()
        pipeline.incr(f"{redis_side.PREFIX}limit")
        pipeline.expire(f"{redis_side.PREFIX}limit", 60, nx=True)
        pipeline.execute()
        return 1

    return act
