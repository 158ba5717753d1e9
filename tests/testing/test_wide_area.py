"""The network of delaying proxies, and three nodes with the default settings that are far apart."""

from __future__ import annotations

import queue
import random
import signal

import pytest

from raftlog.runtime.ports import APPLIED, Outcome
from raftlog.testing.bench.client import Payloads
from raftlog.testing.processes import NodeProcess, ProcessCluster, free_ports, node_names
from raftlog.testing.wide_area import Link, Schedule, WideAreaNetwork, links_between


def test_a_piece_arrives_after_the_delay_and_after_the_line_was_free() -> None:
    schedule = Schedule(Link(delay=0.1, rate=1000), random.Random(1))
    assert schedule.arrival(100, now=5.0) == pytest.approx(5.2)
    assert schedule.arrival(100, now=5.0) == pytest.approx(5.3)
    assert schedule.arrival(100, now=9.0) == pytest.approx(9.2)


def test_what_follows_a_loss_waits_until_it_was_sent_again() -> None:
    schedule = Schedule(Link(delay=0.1, loss=1.0), random.Random(1))
    assert schedule.arrival(1, now=0.0) == pytest.approx(0.1 + 0.4)
    kept = Schedule(Link(delay=0.1), random.Random(1))
    assert kept.arrival(1, now=0.0) == pytest.approx(0.1)


def test_jitter_never_reorders() -> None:
    schedule = Schedule(Link(delay=0.1, jitter=0.5), random.Random(1))
    arrivals = [schedule.arrival(1, now=n / 1000) for n in range(200)]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] < arrivals[-1]


def test_loss_is_of_segments() -> None:
    rng = random.Random(1)
    link = Link(delay=0.1, loss=0.01)
    small = sum(link.loses(100, rng) for _ in range(2000))
    large = sum(link.loses(100 * 1460, rng) for _ in range(2000))
    assert 5 <= small <= 50
    assert 1100 <= large <= 1450  # 1 - 0.99 ** 100 = 0.63


@pytest.mark.processes
def test_the_default_settings_do_at_150_ms(tmp_path, settings) -> None:
    """Nobody is elected for want of patience while the leader lives, and another is once it was killed."""
    names = node_names(3)
    far = {frozenset((a, b)): 0.15 for a in names for b in names if a != b}
    network = WideAreaNetwork(names, free_ports(2 * len(names)), links_between(names, far, jitter=0.01, loss=0.01))
    options = {"MEMBERS": network.members, "STATE_MACHINE": "log"}
    try:
        with ProcessCluster(
            3,
            tmp_path,
            settings_module="raftlog.testing.bench_site.settings",
            options=options,
            node_options=network.node_options(),
        ) as cluster:
            assert next(iter(cluster)).settings.election_timeout == 0.5
            cluster.start()
            cluster.wait_all_applied(30)
            leader = cluster.wait_for_leader(30)
            term = cluster[leader].status()["current_term"]
            for _ in range(3):
                assert write(cluster[leader]) == APPLIED
            assert cluster[leader].status()["current_term"] == term
            cluster[leader].send_signal(signal.SIGKILL)
            successor = cluster.wait_for_leader(30, other_than=[leader])
            assert write(cluster[successor]) == APPLIED
    finally:
        network.close()


def write(node: NodeProcess) -> int:
    answers: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()
    node.client().propose([Payloads(100).next()], 30, answers.put)
    return answers.get(timeout=40)[0].status
