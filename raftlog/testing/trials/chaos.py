"""Kills whichever node leads, again and again, and starts it again."""

from __future__ import annotations

import random
from collections.abc import Callable

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster, ProcessTimeout, leader_of
from raftlog.testing.trials import Tell

LOOK_INTERVAL = 0.05  # seconds


def kill_leaders(
    cluster: ProcessCluster,
    rng: random.Random,
    is_over: Callable[[], bool],
    *,
    every: float,
    tell: Tell = lambda text: None,
) -> int:
    """Until `is_over()`: after each pause of `every` seconds on average kill the leader, and start it again.

    A node is down for less than a second, so that a majority is always there. At the end all nodes run. Call it in the
    thread that started the nodes (they end with it), and let the load run in other threads or processes. Returns
    how often it killed one.
    """
    kills = 0
    while not _pause(every * rng.uniform(0.5, 1.5), is_over):
        leader = leader_of(cluster.statuses())
        if leader is None:
            continue
        began = clock.monotonic()
        cluster[leader].kill()
        kills += 1
        try:
            following = cluster.wait_for_leader(30, other_than=[leader])
            tell(f"killed {leader}; {following} leads after {clock.monotonic() - began:.2f} s")
        except ProcessTimeout as error:
            tell(str(error))
        _pause(rng.uniform(0.0, 0.5), is_over)
        cluster[leader].start()
    return kills


def _pause(seconds: float, is_over: Callable[[], bool]) -> bool:
    """Whether it is over."""
    deadline = clock.monotonic() + seconds
    while clock.monotonic() < deadline:
        if is_over():
            return True
        clock.sleep(LOOK_INTERVAL)
    return is_over()
