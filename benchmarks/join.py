"""A node joins a cluster of three that has a million rows and a compacted log, while clients write.

    python -m benchmarks.join [--rows N] [--seconds N] [--json]

Printed: how long it took until the node votes and has applied all that was committed, how long the image alone took
from the first question to its installation, rows a second of both, writes a second before and meanwhile, the most
memory of the node that gave the image and of the new one (peak resident set, beside what the giver had before). The
rate limit is the default one. The case `snapshot` of `python -m benchmarks` is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import Row, Run, case
from benchmarks.nodes import SETTINGS, started
from benchmarks.usage import MIB, peak_memory
from raftlog.runtime import clock
from raftlog.testing.processes import NodeProcess

COMPACTS = {
    "SEGMENT_BYTES": 1 << 20,
    "COMPACT_LOG_BYTES": 4 << 20,
    "KEEP_LOG_BYTES": 1 << 20,
    "KEEP_LOG_ENTRIES": 1,
}
ROWS: Final = 1_000_000
QUICK_ROWS: Final = 100_000
WRITER_THREADS: Final = 4
TIMEOUT: Final = 600.0  # seconds
SHELL = ("shell", "-v", "0", "-c")
WRITE = f"""
import threading
from raftlog.testing.bench_site.models import Item
def write(thread):
    number = 0
    while True:
        Item.objects.create(name=f"new {{thread}} {{number}}")
        print("wrote", flush=True)
        number += 1
for thread in range({WRITER_THREADS}):
    threading.Thread(target=write, args=[thread]).start()
"""


def fill(node: NodeProcess, first: int, end: int) -> None:
    """Rows of some 70 bytes with these keys, through the ORM on the host of `node`."""
    code = f"""
from raftlog.testing.bench_site.models import Item
for start in range({first}, {end}, 5000):
    keys = range(start, min(start + 5000, {end}))
    Item.objects.bulk_create(Item(pk=key, name=f"item {{key:09d}}" + "x" * 40, number=key) for key in keys)
"""
    node.manage(*SHELL, code, timeout=1800)


class Writer:
    """A process that writes with a few threads; `count` is how often so far."""

    def __init__(self, node: NodeProcess) -> None:
        self.count = 0
        self.process = subprocess.Popen(
            [*node.command, *SHELL, WRITE], env=node.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            self.count += 1

    def rate(self, seconds: float) -> float:
        before, began = self.count, clock.monotonic()
        clock.sleep(seconds)
        return (self.count - before) / (clock.monotonic() - began)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def peak_of(node: NodeProcess) -> float:
    """MiB."""
    assert node.pid is not None
    return round(peak_memory(node.pid), 1)


def measure(rows: int, seconds: float, folder: Path) -> dict[str, Any]:
    with started(folder, machine="database", **COMPACTS) as cluster:
        leader = cluster[cluster.wait_for_leader()]
        fill(leader, 1, rows + 1)
        cluster.wait_all_applied(TIMEOUT)
        cluster.wait_for(
            lambda found: all(status and status["first_index"] > 1 for status in found.values()), 60, "compacted logs"
        )
        new = cluster.new_node("d")
        new.start()
        cluster.wait_for(lambda found: found["d"] is not None, 60, "d is up")
        writer = Writer(leader)
        try:
            cluster.wait_for(lambda found: writer.count > 100, 60, "it writes")
            before = writer.rate(seconds)
            Path(f"/proc/{leader.pid}/clear_refs").write_text("5")  # the peak is taken anew
            giver_before = peak_of(leader)
            count, began = writer.count, clock.monotonic()
            leader.manage("raft", "add", "d", new.address, timeout=TIMEOUT)
            status = leader.status(10)
            assert status is not None
            goal = status["commit_index"]
            cluster.wait_for(lambda found: found["d"] and found["d"]["last_applied"] >= goal, TIMEOUT, "d has all")
            took = clock.monotonic() - began
            meanwhile = (writer.count - count) / took
            after = writer.rate(seconds)
        finally:
            writer.stop()
        return {
            "rows": rows,
            "log_begins_at": status["first_index"],
            "seconds": round(took, 2),
            "rows_per_second": round(rows / took),
            "writes_per_second": {"before": round(before), "meanwhile": round(meanwhile), "after": round(after)},
            "writes_ratio": round(meanwhile / before, 2),
            "database_mib": round(leader.database.stat().st_size / MIB, 1),
            "giver_mib": {"before": giver_before, "peak": peak_of(leader)},
            "joiner_peak_mib": peak_of(new),
            "image": [line for line in new.log_file.read_text().splitlines() if "image" in line],
        }


def image_seconds(lines: list[str]) -> float:
    """From the question for an image to its installation, by the stamps of a node's log. Raises LookupError."""
    begun = [stamp(line) for line in lines if "pulling an image" in line]
    done = [stamp(line) for line in lines if "is now an image" in line]
    if not begun or not done:
        raise LookupError(f"the new node does not say that it pulled and installed an image: {lines}")
    return done[-1] - begun[0]


def stamp(line: str) -> float:
    """Seconds of "2026-11-25 07:14:50,707 INFO …", for differences."""
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


@case(
    "snapshot",
    "a new node joins three that have many rows and a compacted log, while four threads write",
    seconds=110,
    quick_seconds=22,
)
def snapshot(run: Run) -> Iterator[Row]:
    rows = QUICK_ROWS if run.quick else ROWS
    run.note(f"{rows:,} rows")
    found = measure(rows, min(run.seconds, 3.0), run.folder)
    image = image_seconds(found["image"])
    note = f"{rows:,} rows, {found['database_mib']:g} MiB, beside {WRITER_THREADS} threads that write"

    def row(name: str, unit: str, value: float, note: str = "", **params: str) -> Row:
        return Row("snapshot", name, "raftlog", params, unit, [value], note=note)

    yield row(
        "rows", "rows per second", round(rows / image), f"pulled, verified and installed in {image:.2f} s; {note}"
    )
    whole = f"{found['seconds']:g} s from the command to a voter that has applied all"
    yield row("rows, from the command to a voter", "rows per second", found["rows_per_second"], whole)
    for when, per_second in found["writes_per_second"].items():
        yield row("writes", "per second", per_second, when=when)
    yield row("resident, the giver before", "MiB", found["giver_mib"]["before"])
    yield row("resident, the giver at most", "MiB", found["giver_mib"]["peak"])
    yield row("resident, the new node at most", "MiB", found["joiner_peak_mib"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seconds", type=float, default=10, help="of writing before and after")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.rows, options.seconds, Path(folder))
    result["image_seconds"] = round(image_seconds(result["image"]), 2)
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
