"""Counters beside Redis INCR."""

from __future__ import annotations

from collections.abc import Callable

from raftlog.testing.bench import redis_side
from raftlog.testing.bench.batteries import Row, rate
from raftlog.testing.processes import ProcessCluster

HERE = "raftlog.testing.bench.battery_counters"
NAMES = 100


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for name, action, unit, theirs in (
        (f"add(), {NAMES} names, and all in the log at the end", "gathered", "additions", "redis_side:incr"),
        ("add(exact=True)", "exact", "additions", "redis_side:incr"),
        ("value()", "value", "reads", "redis_side:get"),
    ):
        beside, figure = redis_side.side(
            "Redis INCR" if theirs.endswith("incr") else "Redis GET",
            lambda theirs=theirs: rate(cluster, f"raftlog.testing.bench.{theirs}", seconds, threads=4),  # type: ignore[misc]
        )
        ours = rate(cluster, f"{HERE}:{action}", seconds, threads=4)
        rows.append((f"{name}, 4 threads", unit, ours, beside, figure))
    return rows


# Actions of an application process


def gathered() -> Callable[[], int]:
    """Counts a block of additions once all of it is in the log: what is only gathered is not done."""
    from raftlog.contrib import counters

    def count() -> int:
        for n in range(10_000):
            counters.add(f"bench-{n % NAMES}")
        counters.flush()
        return 10_000

    return count


def exact() -> Callable[[], int]:
    from raftlog.contrib import counters

    def count() -> int:
        counters.add("bench-exact", exact=True)
        return 1

    return count


def value() -> Callable[[], int]:
    from raftlog.contrib import counters

    def read() -> int:
        counters.value("bench-exact")
        return 1

    return read
