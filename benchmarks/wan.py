"""Nodes in five regions, and in three zones of one, over links that a proxy of ours delays (raftlog.testing.wide_area).

The floor is what the round trips alone allow: a commit needs the leader's round trip to the peer that completes the
majority; beside a follower, the one between it and the leader comes before. With n clients at a time, n such in each.
Before each figure leadership is where the floor has it; where it was not so any more afterwards, the row says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.cases import FLOOR, Row, Run, case
from benchmarks.failover import outages
from benchmarks.loops import Measured, closed_loop, pipelined
from benchmarks.nodes import TIMEOUT, started
from benchmarks.systems.raftlog import LOG, WINDOW
from raftlog.testing.processes import ProcessCluster, free_ports, node_names
from raftlog.testing.wide_area import WideAreaNetwork, links_between

VIRGINIA, OREGON, IRELAND, FRANKFURT, TOKYO = REGIONS = node_names(5)
# Milliseconds there and back between regions of AWS, averages of the table "Latency Between AWS Global Regions" as
# acomputerscientistlearnsaws.blogspot.com/2017/04/aws-regions.html gives it.
BETWEEN_REGIONS: Final = {
    (VIRGINIA, OREGON): 87.0,
    (VIRGINIA, IRELAND): 80.5,
    (VIRGINIA, FRANKFURT): 88.6,
    (VIRGINIA, TOKYO): 145.3,
    (OREGON, IRELAND): 137.0,
    (OREGON, FRANKFURT): 159.5,
    (OREGON, TOKYO): 89.1,
    (IRELAND, FRANKFURT): 19.6,
    (IRELAND, TOKYO): 212.4,
    (FRANKFURT, TOKYO): 236.5,
}
# Zones of one region: about a millisecond.
BETWEEN_ZONES: Final = {(a, b): 1.0 for a in node_names(3) for b in node_names(3) if a < b}
JITTER: Final = 0.0005  # seconds, of each way
RATE: Final = 125e6  # bytes a second: one gigabit
ELECTION_ROUND_TRIPS: Final = 5  # of the longest, as docs/howto/wide-area.md advises
LEAST_ELECTION_TIMEOUT: Final = 0.5  # seconds: the default
LEAST_HEARTBEAT_INTERVAL: Final = 0.1  # seconds: the default
ROUNDS: Final = 10
QUICK_ROUNDS: Final = 3

RoundTrips = dict[tuple[str, str], float]


def floor_ms(round_trips: RoundTrips, leader: str, beside: str) -> float:
    """What a client on the host of `beside` waits at least for a commit."""
    both_ways = round_trips | {(b, a): ms for (a, b), ms in round_trips.items()}
    peers = sorted(ms for (source, _), ms in both_ways.items() if source == leader)
    majority = (len(peers) + 1) // 2  # of the peers: the leader itself is the rest
    return peers[majority - 1] + (both_ways[leader, beside] if beside != leader else 0.0)


def timing(round_trips: RoundTrips) -> dict[str, float]:
    """Keys of RAFTLOG, in seconds. A heartbeat's interval is also the span in which rivals try again at random."""
    longest = max(round_trips.values()) / 1000
    return {
        "ELECTION_TIMEOUT": max(LEAST_ELECTION_TIMEOUT, ELECTION_ROUND_TRIPS * longest),
        "HEARTBEAT_INTERVAL": max(LEAST_HEARTBEAT_INTERVAL, longest),
    }


@contextmanager
def apart(folder: Path, round_trips: RoundTrips, leader: str, loss: float = 0.0) -> Iterator[ProcessCluster]:
    """Started nodes with these round trips between them, of which `leader` leads."""
    names = sorted({name for pair in round_trips for name in pair})
    seconds = {frozenset(pair): ms / 1000 for pair, ms in round_trips.items()}
    links = links_between(names, seconds, jitter=min(JITTER, min(seconds.values()) / 10), rate=RATE, loss=loss)
    network = WideAreaNetwork(names, free_ports(2 * len(names)), links)
    try:
        with started(
            folder,
            len(names),
            node_options=network.node_options(),
            MEMBERS=network.members,
            PROPOSAL_TIMEOUT=20,
            **timing(round_trips),
        ) as cluster:
            lead(cluster, leader)
            yield cluster
    finally:
        network.close()


def lead(cluster: ProcessCluster, leader: str) -> None:
    """Hand leadership over where another has it."""
    cluster.wait_all_applied(TIMEOUT)
    if cluster.wait_for_leader(TIMEOUT) != leader:
        cluster[leader].manage("raft", "transfer", leader)
    cluster.wait_for(
        lambda found: all(status and status["leader_id"] == leader for status in found.values()),
        TIMEOUT,
        f"all nodes follow {leader}",
    )


def moved(cluster: ProcessCluster, leader: str) -> str:
    """For the note of a figure whose floor is of this leader."""
    now = cluster.wait_for_leader(TIMEOUT)
    return "" if now == leader else f"leadership moved meanwhile, to {now}: the floor is not of this"


def compared(measured: Measured, params: dict[str, object], floor: float, note: str) -> Iterator[Row]:
    """Throughput and latency of clients that wait, each beside its floor."""
    clients = int(str(params["clients"]))
    note = "; ".join(filter(None, [measured.trouble, note]))
    yield Row("wan", "put", FLOOR, params, "per second", [round(1000 * clients / floor, 1)])
    yield Row("wan", "put", LOG.name, params, "per second", [round(measured.per_second, 1)], FLOOR, note)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        yield Row("wan", f"put, {name}", FLOOR, params, "ms", [round(floor, 2)])
        yield Row("wan", f"put, {name}", LOG.name, params, "ms", [round(measured.ms(share), 2)], FLOOR, note)


def loads(run: Run, cluster: ProcessCluster, place: str, floor: tuple[RoundTrips, str], loss: float) -> Iterator[Row]:
    round_trips, leader = floor
    follower = IRELAND if place == "regions" else min(name for name in cluster.nodes if name != leader)
    for beside, host, counts in (
        ("leader", leader, (1, 16, 64, 256)),
        ("follower", follower, (1, 64)),
    ):
        for clients in counts if not (run.quick or loss) else counts[:: len(counts) - 1]:
            run.note(f"{place}, loss {loss:.1%}: {clients} clients beside the {beside}")
            lead(cluster, leader)
            measured = closed_loop(LOG.target(cluster[host]), clients, run.seconds)
            params: dict[str, object] = {"place": place, "beside": beside, "loss %": 100 * loss, "clients": clients}
            yield from compared(measured, params, floor_ms(round_trips, leader, host), moved(cluster, leader))
    lead(cluster, leader)
    measured = pipelined(LOG.target(cluster[leader]), run.seconds)
    params = {"place": place, "loss %": 100 * loss}
    allowed = round(1000 * WINDOW / floor_ms(round_trips, leader, leader), 1)
    yield Row("wan", "pipelined", FLOOR, params, "per second", [allowed], note=f"{WINDOW:,} puts outstanding")
    reached = [round(measured.per_second, 1)]
    yield Row("wan", "pipelined", LOG.name, params, "per second", reached, FLOOR, moved(cluster, leader))


@case(
    "wan",
    "throughput, latency and failover between regions and between zones",
    seconds=420,
    quick_seconds=90,
    plot=("clients", "per second"),
    in_quick=False,  # twenty starts of nodes and clients
)
def wan(run: Run) -> Iterator[Row]:
    for loss in (0.0, 0.01) if run.quick else (0.0, 0.001, 0.01):
        with apart(run.folder / f"regions-{loss}", BETWEEN_REGIONS, VIRGINIA, loss) as cluster:
            yield from loads(run, cluster, "regions", (BETWEEN_REGIONS, VIRGINIA), loss)
            if not loss:
                yield failover(run, cluster)
    with apart(run.folder / "zones", BETWEEN_ZONES, node_names(3)[0]) as cluster:
        yield from loads(run, cluster, "zones", (BETWEEN_ZONES, node_names(3)[0]), 0.0)


def failover(run: Run, cluster: ProcessCluster) -> Row:
    rounds = QUICK_ROUNDS if run.quick else ROUNDS
    run.note(f"regions: the leader is killed {rounds} times")
    found, _ = outages(cluster, rounds, lambda leader: leader.kill(), lambda leader: None)
    in_ms = [round(1000 * seconds, 1) for seconds in found]
    return Row("wan", "leader killed, first acknowledged write", LOG.name, {"place": "regions"}, "ms", in_ms)
