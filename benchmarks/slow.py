"""Does one slow node of three slow the others? Puts through the leader, beside a slow follower and without, in turns.

A follower is slow in two ways: each sync of its disk takes SLOW_SYNC longer, or its process is stopped for most of the
time (SIGSTOP in pulses, shorter than an election timeout, so that it is slow and not gone). A pair is a measurement of
a healthy cluster and one beside the slow follower, every other pair the other way round; a ratio is made of the two of
one pair, and the median of the pairs counts. Between measurements everything is applied everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from benchmarks.cases import Gathered, Row, Run, case
from benchmarks.commit import limit
from benchmarks.loops import closed_loop
from benchmarks.nodes import started
from benchmarks.systems.raftlog import LOG
from raftlog.runtime import clock
from raftlog.testing.processes import NodeProcess, ProcessCluster, node_names
from raftlog.testing.torture.disks import Disks

CASE: Final = "slow follower"
OURS: Final = LOG.name
NODES: Final = 3
PAIRS: Final = 5
QUICK_PAIRS: Final = 2
SLOW_SYNC: Final = 0.1  # seconds
STOPPED, RUNNING = 0.2, 0.05  # seconds, of a pulse
LOADS: Final = (("one client", 1), ("16 clients", 16))
TIMEOUT: Final = 120.0  # seconds

Slowed = Callable[[], AbstractContextManager[None]]


@contextmanager
def slow_disk(disks: Disks, name: str) -> Iterator[None]:
    disks.slow(name, SLOW_SYNC)
    try:
        yield
    finally:
        disks.mend(name, "disk_slow")


@contextmanager
def stopped_in_pulses(node: NodeProcess) -> Iterator[None]:
    ending = threading.Event()

    def pulse() -> None:
        while not ending.is_set():
            node.pause()
            ending.wait(STOPPED)
            node.resume()
            ending.wait(RUNNING)

    thread = threading.Thread(target=pulse, name="pulses", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def order(pair: int) -> tuple[bool, bool]:
    """Whether the first and the second measurement of a pair are beside a slow follower: every pair turns it round."""
    return (False, True) if pair % 2 == 0 else (True, False)


def over(pairs: list[dict[bool, float]]) -> list[float]:
    """Of each pair, the figure beside a slow follower over the healthy one; none of a pair without a healthy one."""
    return [pair[True] / pair[False] for pair in pairs if pair[False]]


@case(
    CASE,
    "puts through the leader beside one slow follower of two, over those beside healthy ones, in turns",
    seconds=190,
    quick_seconds=20,
)
def slow_follower(run: Run) -> Iterator[Row]:
    run.folder.mkdir(parents=True, exist_ok=True)
    names = node_names(NODES)
    disks = Disks(run.folder, names)
    with started(
        run.folder / "nodes", NODES, environments={name: disks.environment(name) for name in names}
    ) as cluster:
        leader = cluster.wait_for_leader(TIMEOUT)
        victim = next(name for name in names if name != leader)
        ways: dict[str, Slowed] = {
            "slow disk": lambda: slow_disk(disks, victim),
            "stopped in pulses": lambda: stopped_in_pulses(cluster[victim]),
        }
        for way, slowed in list(ways.items())[: 1 if run.quick else None]:
            yield from compare(run, cluster, leader, way, slowed)


def compare(run: Run, cluster: ProcessCluster, leader: str, way: str, slowed: Slowed) -> Iterator[Row]:
    gathered = Gathered(CASE)
    target = LOG.target(cluster[leader])
    for words, clients in LOADS:
        rates: list[dict[bool, float]] = []
        medians: list[dict[bool, float]] = []
        for pair in range(QUICK_PAIRS if run.quick else PAIRS):
            rates.append({})
            medians.append({})
            for is_slow in order(pair):
                run.note(f"{words}, {way if is_slow else 'healthy'}, pair {pair + 1}")
                if is_slow:
                    with slowed():
                        measured = closed_loop(target, clients, run.seconds)
                else:
                    measured = closed_loop(target, clients, run.seconds)
                beside = way if is_slow else f"healthy, in turns with {way}"
                rates[-1][is_slow], medians[-1][is_slow] = measured.per_second, measured.ms(0.5)
                gathered.add(f"{words}, {beside}", OURS, {}, "per second", measured.per_second, note=limit(measured))
                gathered.add(f"{words}, {beside}: median", OURS, {}, "ms", measured.ms(0.5))
                settle(cluster, leader)
        # Of one client the latency says how long it waits, of many the rate how much is done.
        shares = over(medians if clients == 1 else rates)
        for share in shares:
            gathered.add(f"{words}, {way}: over healthy", OURS, {}, "×", share, note=f"of {len(shares)} pairs")
    yield from gathered.rows()


def settle(cluster: ProcessCluster, leader: str) -> None:
    """Everything is applied everywhere. Raises RuntimeError where another node leads: its hosts' figures are others."""
    cluster.wait_all_applied(TIMEOUT)
    clock.sleep(0.1)
    if cluster.wait_for_leader(TIMEOUT) != leader:
        raise RuntimeError("leadership changed, though only a follower was slow")
