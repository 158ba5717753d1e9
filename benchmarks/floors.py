"""What the machine itself takes for the parts of which every replicated write has at least one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases import FLOOR, Row, Run, case
from raftlog.testing.bench.floor import consumer_round_trip, sync_of_a_small_append

PARTS = ("one message through a Daphne consumer and back", "one fdatasync of a small append")


def floor_ms(folder: Path, seconds: float) -> tuple[float, float]:
    """Median milliseconds of each of PARTS; takes twice `seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    return 1000 * consumer_round_trip(seconds), 1000 * sync_of_a_small_append(folder, seconds)


@case("floor", "what the machine takes for one message and one sync", seconds=12, quick_seconds=3)
def floor(run: Run) -> Iterator[Row]:
    found = []
    for _ in range(run.repeats):
        run.note("one consumer round trip, one fdatasync")
        found.append(floor_ms(run.folder, min(run.seconds, 1.0)))
    for number, name in enumerate(PARTS):
        yield Row("floor", name, FLOOR, {}, "ms", [parts[number] for parts in found])
    yield Row("floor", "both, one after the other", FLOOR, {}, "ms", [sum(parts) for parts in found])
