"""Reading a flag beside Redis GET, and beside a flag in a row that is read each time."""

from __future__ import annotations

from collections.abc import Callable

from raftlog.testing.bench import redis_side
from raftlog.testing.bench.batteries import Row, rate
from raftlog.testing.processes import ProcessCluster

HERE = "raftlog.testing.bench.battery_flags"
BLOCK = 10_000  # reads between two looks at the clock, which would else be most of what is measured


def measure(cluster: ProcessCluster, seconds: float) -> list[Row]:
    beside, theirs = redis_side.side(
        "Redis GET", lambda: rate(cluster, "raftlog.testing.bench.redis_side:get", seconds)
    )
    from_memory = rate(cluster, f"{HERE}:from_memory", seconds)
    rolled_out = rate(cluster, f"{HERE}:rolled_out", seconds)
    from_a_row = rate(cluster, f"{HERE}:from_a_row", seconds)
    changes = rate(cluster, f"{HERE}:change", seconds)
    return [
        ("get()", "reads", from_memory, beside, theirs),
        ("get()", "reads", from_memory, "a row read by the ORM each time", from_a_row),
        ("enabled(), rolled out to 10 %", "reads", rolled_out, beside, theirs),
        ("set()", "changes", changes, "", None),
    ]


# Actions of an application process


def from_memory() -> Callable[[], int]:
    from raftlog.contrib import flags

    get = flags.get

    def read() -> int:
        for _ in range(BLOCK):
            get("bench_on")
        return BLOCK

    return read


def rolled_out() -> Callable[[], int]:
    from raftlog.contrib import flags

    flags.set("bench_share", True, percentage=10)
    enabled = flags.enabled

    def read() -> int:
        for n in range(BLOCK):
            enabled("bench_share", n)
        return BLOCK

    return read


def from_a_row() -> Callable[[], int]:
    from raftlog.contrib.flags.models import Flag

    def read() -> int:
        Flag.objects.filter(pk="bench_share").first()
        return 1

    return read


def change() -> Callable[[], int]:
    from raftlog.contrib import flags

    values = [True, False]

    def act() -> int:
        values.reverse()
        flags.set("bench_on", values[0])
        return 1

    return act
