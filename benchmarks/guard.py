"""A short benchmark for CI: did a ratio to the floor of the same run collapse?

    python -m benchmarks.guard [--record]

Each ratio is made of what a busy machine disturbs least: CPU time, and the quickest tenth of the puts. Of several tries
the best counts: of latencies the least floor over the least put, whichever tries had them. It fails only where that is
less than half of what `guard.json` has: never for an absolute figure. --record writes the ratios of this run there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import SETTINGS
from benchmarks.systems.raftlog import LOG
from raftlog.runtime.ports import Proposer
from raftlog.testing.bench.client import Load, log_proposals, run_blocking, run_pipelined
from raftlog.testing.bench.floor import consumer_round_trip, sync_of_a_small_append
from raftlog.testing.bench.transactions import node_cpu

RECORDED = Path(__file__).with_name("guard.json")
COLLAPSED = 0.5  # of the recorded ratio
TRIES = 3
SECONDS = 0.5  # of one measurement
SPINS = 20_000  # of the loop that stands for the speed of this interpreter on this machine

# Name -> what the ratio says. All are better the higher they are.
RATIOS = {
    "latency": "one message and one sync, over the put of one client that a tenth of them do not exceed",
    "clients": "a thousand turns of a Python loop, over the CPU time of all processes for a put of 16 clients",
    "pipelined": "a thousand turns of a Python loop, over the CPU time of all processes for a pipelined put",
}


# Name -> (what is above, what is below) of each try.
Parts = dict[str, list[tuple[float, float]]]


def measure(folder: Path) -> Parts:
    """The parts of each ratio, of each try. Takes about 12 s on two cores at rest."""
    found: Parts = defaultdict(list)
    with LOG.cluster(folder / "nodes", 3) as cluster:
        proposer = cluster[cluster.wait_for_leader(60)].client()

        def cpu() -> float:
            return sum(node_cpu(cluster).values()) + time.process_time()

        for _ in range(TRIES):
            for name, above, below in one_try(proposer, folder, cpu):
                found[name].append((above, below))
    return dict(found)


def one_try(proposer: Proposer, folder: Path, cpu: Callable[[], float]) -> Iterator[tuple[str, float, float]]:
    """The work of threads of this process, beside the floor. `cpu` gives seconds that all processes have used."""
    blocking = Load("blocking", SECONDS)
    one = run_blocking([log_proposals(proposer, blocking)], SECONDS)
    yield "latency", floor_seconds(folder), sorted(one.latencies)[len(one.latencies) // 10]
    thousand_turns = 1000 * turn_seconds()
    before = cpu()
    many = run_blocking([log_proposals(proposer, blocking) for _ in range(16)], SECONDS)
    between = cpu()
    stream = run_pipelined(proposer, Load("pipelined", SECONDS))
    after = cpu()
    yield "clients", thousand_turns, (between - before) / many.count
    yield "pipelined", thousand_turns, (after - between) / stream.count


def floor_seconds(folder: Path) -> float:
    return consumer_round_trip(SECONDS / 4) + sync_of_a_small_append(folder, SECONDS / 4)


def turn_seconds() -> float:
    """CPU time of one turn of a loop: its shortest of five, since what disturbs it only makes it longer."""
    taken = []
    for _ in range(5):
        started = time.thread_time()
        table = {}
        for number in range(SPINS):
            table[number & 255] = number.to_bytes(8, "big")
        taken.append(time.thread_time() - started)
    return min(taken) / SPINS


def best(tries: Sequence[tuple[float, float]]) -> float:
    """The least of what is above over the least of what is below, each of whichever try had it.

    What disturbs a measurement only makes it longer, so that the least are nearest to what the code takes; the best of
    the ratios would prefer the try whose floor was disturbed.
    """
    return min(above for above, _ in tries) / min(below for _, below in tries)


def collapsed(found: Parts, recorded: Mapping[str, float]) -> list[str]:
    """Which ratios are less than COLLAPSED of what is recorded. Raises KeyError where one was not measured."""
    return [name for name, before in recorded.items() if best(found[name]) < COLLAPSED * before]


def show(found: Parts, recorded: Mapping[str, float], console: Console) -> None:
    table = Table("ratio", "tries", "best", "recorded", "best / recorded", "", box=None, pad_edge=False)
    fallen = collapsed(found, recorded)
    for name, before in recorded.items():
        now = best(found[name])
        tries = " ".join(f"{above / below:.3g}" for above, below in found[name])
        verdict = "COLLAPSED" if name in fallen else "ok"
        table.add_row(f"{name}: {RATIOS[name]}", tries, f"{now:.3g}", f"{before:.3g}", f"{now / before:.2f}", verdict)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the ratios of this run into guard.json")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raftlog-guard-") as folder:
        found = measure(Path(folder))
    if options.record:
        rounded = {name: float(f"{best(found[name]):.3g}") for name in RATIOS}
        RECORDED.write_text(json.dumps(rounded, indent=1) + "\n")
    recorded = json.loads(RECORDED.read_text())
    console = Console()
    if not console.is_terminal:
        console.width = 160
    show(found, recorded, console)
    fallen = collapsed(found, recorded)
    words = (
        f"{', '.join(fallen)}: less than {COLLAPSED:g} of what guard.json has" if fallen else "no ratio has collapsed"
    )
    console.print(f"{words}; {time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f}", highlight=False)
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
