"""Locks beside redis-py's Lock: acquired and released, by one caller at a time and by four who want the same one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from raftlog.testing.bench import redis_side
from raftlog.testing.bench.batteries import Row, rate
from raftlog.testing.processes import ProcessCluster

HERE = "raftlog.testing.bench.battery_locks"
TTL = 10.0  # seconds
_numbers = itertools.count()


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for name, shared in (("acquire and release, a lock each", False), ("acquire and release, one lock for all", True)):
        arguments = {"shared": shared}
        beside, theirs = redis_side.side(
            "redis-py Lock",
            lambda arguments=arguments: rate(  # type: ignore[misc]
                cluster, f"{HERE}:redis_lock", seconds, threads=4, arguments=arguments
            ),
        )
        ours = rate(cluster, f"{HERE}:our_lock", seconds, threads=4, arguments=arguments)
        rows.append((f"{name}, 4 threads", "locks", ours, beside, theirs))
    return rows


# Actions of an application process


def our_lock(shared: bool) -> Callable[[], int]:
    import raftlog

    name = lock_name(shared)

    def cycle() -> int:
        with raftlog.lock(name, ttl=TTL):
            return 1

    return cycle


def redis_lock(shared: bool) -> Callable[[], int]:
    import redis

    client = redis.Redis.from_url(redis_side.URL)
    name = redis_side.PREFIX + lock_name(shared)

    def cycle() -> int:
        with client.lock(name, timeout=TTL):
            return 1

    return cycle


def lock_name(shared: bool) -> str:
    return "bench" if shared else f"bench-{threading.get_native_id()}-{next(_numbers)}"
