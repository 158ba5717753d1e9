"""How long nobody can write after the leader is gone: killed (SIGKILL), or silent (SIGSTOP, as a host that hangs).

A client on a surviving host writes one small command after the other. What counts is the time from the signal until
the first acknowledgement of a write that was begun after it; so many times over, with another leader each time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.cases import FLOOR, Row, Run, case
from benchmarks.nodes import TIMEOUT, started
from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, Outcome
from raftlog.testing.bench.client import Payloads
from raftlog.testing.bench.figures import quantile
from raftlog.testing.processes import NodeProcess, ProcessCluster

ROUNDS: Final = 50
QUICK_ROUNDS: Final = 4
CALM: Final = 0.3  # seconds of writes before the leader goes
PERCENTS: Final = (10, 25, 50, 75, 90, 95, 100)
PAUSE: Final = 0.002  # seconds between two writes: the client is not to compete with the election for the machine


class Prober(threading.Thread):
    """Writes through one node, one command at a time, until stop(). Thread-safe."""

    def __init__(self, node: NodeProcess) -> None:
        super().__init__(name="prober", daemon=True)
        self._client = node.client()
        self._payloads = Payloads(100)
        self._ending = threading.Event()
        # (begun, acknowledged) of each write that was.
        self._done: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()

    def run(self) -> None:
        while not self._ending.wait(PAUSE):
            begun = clock.monotonic()
            if self._write():
                self._done.put((begun, clock.monotonic()))

    def _write(self) -> bool:
        answers: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()
        try:
            self._client.propose([self._payloads.next()], TIMEOUT, answers.put)
        except RaftlogError:
            return False  # nothing was sent; the next turn tries again
        return answers.get()[0].status == APPLIED

    def first_begun_after(self, moment: float) -> float:
        """When the first write that was begun after `moment` was acknowledged. Raises queue.Empty after TIMEOUT."""
        while True:
            begun, ended = self._done.get(timeout=TIMEOUT)
            if begun >= moment:
                return ended

    def latencies(self) -> list[float]:
        """Seconds of the writes that nobody has looked at yet."""
        found = []
        while not self._done.empty():
            begun, ended = self._done.get()
            found.append(ended - begun)
        return found

    def stop(self) -> None:
        self._ending.set()
        self.join(TIMEOUT)


def settle(cluster: ProcessCluster) -> str:
    """All nodes run, follow one leader and have what it has; returns the leader."""
    for node in cluster:
        if not node.is_running:
            node.start()
    cluster.wait_all_applied(TIMEOUT)
    leader = cluster.wait_for_leader(TIMEOUT)
    cluster.wait_for(
        lambda found: all(status and status["leader_id"] == leader for status in found.values()),
        TIMEOUT,
        "all nodes follow the leader",
    )
    return leader


def outages(
    cluster: ProcessCluster, rounds: int, strike: Callable[[NodeProcess], None], heal: Callable[[NodeProcess], None]
) -> tuple[list[float], list[float]]:
    """(seconds without writes of each round, seconds of each write while nothing ails)."""
    found: list[float] = []
    calm: list[float] = []
    for number in range(rounds):
        leader = cluster[settle(cluster)]
        survivors = [node for node in cluster if node is not leader]
        prober = Prober(survivors[number % len(survivors)])
        prober.start()
        try:
            clock.sleep(CALM)
            calm += prober.latencies()
            struck = clock.monotonic()
            strike(leader)
            found.append(prober.first_begun_after(struck) - struck)
        finally:
            heal(leader)
            prober.stop()
    return found, calm


def rows(name: str, seconds: list[float], note: str) -> Iterator[Row]:
    """All of them as one row's values, and the distribution."""
    in_ms = [round(1000 * one, 2) for one in seconds]
    yield Row("failover", name, "raftlog", {"quantile": "median"}, "ms", in_ms, note=note)
    for word, share in (("p90", 0.9), ("max", 1.0)):
        yield Row("failover", name, "raftlog", {"quantile": word}, "ms", [quantile(sorted(in_ms), share) or 0.0])
    for percent in PERCENTS:
        value = quantile(sorted(in_ms), percent / 100)
        yield Row("failover", f"{name}, distribution", "raftlog", {"percent": percent}, "ms", [value or 0.0])


@case(
    "failover",
    "first acknowledged write after the leader is killed, and after its host falls silent",
    seconds=400,
    quick_seconds=80,
    plot=("percent", "ms"),
)
def failover(run: Run) -> Iterator[Row]:
    rounds = QUICK_ROUNDS if run.quick else ROUNDS
    with started(run.folder) as cluster:
        timeout = next(iter(cluster)).settings.election_timeout
        note = f"{rounds} times; election timeout {1000 * timeout:g} ms"
        run.note(f"the leader is killed {rounds} times")
        killed, calm = outages(cluster, rounds, lambda leader: leader.kill(), lambda leader: None)
        yield Row(
            "failover",
            "one write through a follower's host, nothing ails",
            FLOOR,
            {},
            "ms",
            [round(1000 * (quantile(sorted(calm), 0.5) or 0.0), 3)],
        )
        yield from rows("first write after a kill", killed, note)
        run.note(f"the leader's host falls silent {rounds} times")
        silent, _ = outages(cluster, rounds, lambda leader: leader.pause(), lambda leader: leader.resume())
        yield from rows("first write after silence", silent, note)
        in_timeouts = [round(one / timeout, 3) for one in silent]
        yield Row("failover", "first write after silence", "raftlog", {}, "election timeouts", in_timeouts, note=note)
