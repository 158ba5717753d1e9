"""What a large database costs: 10⁴, 10⁵ and 10⁶ rows in a table, and each time create(), its commit, and get() by key.

Three nodes with fsync on and one writer on the leader's host. "Until committed" is the part of a create() from the
proposal until its node begins to apply it (stages.py): the log, which should not care how many rows there are.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Final

from benchmarks.cases import Gathered, Row, Run, case
from benchmarks.join import fill
from benchmarks.loops import closed_loop
from benchmarks.orm import OURS, Sides, both_sides
from benchmarks.systems import Client
from benchmarks.systems.raftlog import RaftlogTarget
from raftlog.runtime import clock
from raftlog.testing.bench import transactions
from raftlog.testing.bench.figures import quantile
from raftlog.testing.bench.transactions import Plan, Window

CASE: Final = "rows"
ROWS: Final = (10_000, 100_000, 1_000_000)
QUICK_ROWS: Final = (10_000, 100_000)
COMMITTED: Final = "propose until committed"
BEYOND: Final = 1_000_000_000  # a key of which create() goes on, so that the keys below can be filled in
SETTLE: Final = 5.0  # seconds for the disk, after many rows were written
TIMEOUT: Final = 600.0  # seconds


@dataclasses.dataclass(frozen=True)
class ItemsTarget(RaftlogTarget):
    """An application of a host whose database has items with the keys 1 to `rows`."""

    rows: int = 1

    def connect(self) -> Client:
        self.set_up()
        return ItemsClient(self.rows)


class ItemsClient:
    """A put makes an item more; a get reads any of those that were filled in, by its key, from the local database."""

    def __init__(self, rows: int) -> None:
        from raftlog.testing.bench_site.models import Item

        self._items = Item.objects
        self._rows = rows
        self._random = random.Random(rows)

    def put(self, key: str, value: bytes) -> None:
        self._items.create(name=key)

    def get(self, key: str) -> bytes | None:
        return self._items.get(pk=self._random.randint(1, self._rows)).name.encode()

    def close(self) -> None:
        from django.db import connection

        connection.close()


@case(
    CASE,
    "create(), its commit, and get() by key, with 10⁴, 10⁵ and 10⁶ rows in the table",
    seconds=130,
    quick_seconds=20,
    plot=[("rows", "ms"), ("rows", "per second"), ("rows", "MiB")],
)
def rows(run: Run) -> Iterator[Row]:
    gathered = Gathered(CASE)
    with both_sides(run.folder) as sides:
        fill(sides.leader, BEYOND, BEYOND + 1)
        filled = 0
        for count in QUICK_ROWS if run.quick else ROWS:
            run.note(f"{count:,} rows")
            fill(sides.leader, filled + 1, count + 1)
            filled = count
            sides.cluster.wait_all_applied(TIMEOUT)
            clock.sleep(0.5 if run.quick else SETTLE)
            for repeat in range(run.repeats):
                run.note(f"{count:,} rows, repeat {repeat + 1}")
                measure(run, sides, gathered, count)
    yield from gathered.rows()


def measure(run: Run, sides: Sides, gathered: Gathered, count: int) -> None:
    params = {"rows": count}
    window = transactions.run_raft(sides.cluster, sides.leader, Plan("create()", "create", 1), run.seconds, traced=True)
    taken = latencies(window)
    stages = transactions.stages(window, sides.applied(sides.leader, window))
    gathered.add("create(): median", OURS, params, "ms", 1000 * (quantile(taken, 0.5) or 0.0))
    gathered.add("create(): 99th percentile", OURS, params, "ms", 1000 * (quantile(taken, 0.99) or 0.0))
    gathered.add("create()", OURS, params, "per second", len(taken) / run.seconds)
    gathered.add("create(), until committed: mean", OURS, params, "ms", stages[COMMITTED])
    read = closed_loop(ItemsTarget(sides.leader.environment, count), 1, run.seconds, operation="get")
    gathered.add("get() by key: median", OURS, params, "ms", read.ms(0.5), note=read.trouble)
    gathered.add("get() by key", OURS, params, "per second", read.per_second)
    size = sides.leader.database.stat().st_size / (1 << 20)
    gathered.add("the database's file", OURS, params, "MiB", round(size, 1))


def latencies(window: Window) -> list[float]:
    """Seconds of each transaction, ascending."""
    return sorted(latency for worked in window.worked for latency in worked.measured.latencies)
