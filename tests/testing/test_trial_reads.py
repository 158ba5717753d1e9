"""The trial of reads, small: it holds, and its check fails where the barrier is taken away."""

import random

import pytest

from raftlog.testing.history import History, Operation
from raftlog.testing.trials._reads_client import STALENESS
from raftlog.testing.trials.reads import Reads, judge


def run(directory, **options):
    options = {"nodes": 3, "threads": 2, "registers": 2, "every": 1.0, "network": "proxy", "mutation": None} | options
    return Reads().run({"seed": 1, "leases": False, **options}, directory, random.Random(1), lambda text: None)


@pytest.mark.processes
def test_reads_on_every_node_are_linearizable_under_partitions_and_pauses(tmp_path):
    report = run(tmp_path, seconds=6)
    assert report["problems"] == []
    assert len(report["linearizable_reads"]) >= 2  # so a follower's are among them
    assert report["writes"] > 10


@pytest.mark.processes
def test_without_the_barrier_a_stale_read_is_caught(tmp_path):
    report = run(tmp_path, seconds=5, mutation="no-barrier", registers=1, every=0.7)
    assert "cannot be placed any more" in report["problems"][0]


def operation(action, value, invoked_at, returned_at):
    argument, output = (value, None) if action == "write" else (None, value)
    return Operation("a0", action, argument, "r0", invoked_at, returned_at, output)


def test_a_bounded_read_may_show_what_was_overwritten_within_the_bound_only():
    writes = [operation("write", 1, 1.0, 1.1), operation("write", 2, 2.0, 2.1)]
    within, beyond = 2.1 + STALENESS - 0.01, 2.1 + STALENESS + 0.01
    assert judge([*writes, operation("bounded_read", 1, within, within)])[1] == []
    assert judge([*writes, operation("bounded_read", 2, beyond, beyond)])[1] == []
    (problem,) = judge([*writes, operation("bounded_read", 1, beyond, beyond)])[1]
    assert "had overwritten" in problem
    # Two writes at the same time: either may be the last.
    both = [operation("write", 1, 1.0, 2.0), operation("write", 2, 1.5, 1.6)]
    assert judge([*both, operation("bounded_read", 1, 9.0, 9.1)])[1] == []


def test_what_clients_saw_is_judged_register_by_register():
    history = History([operation("write", 1, 1.0, 1.1), operation("read", 0, 1.2, 1.3)])
    assert "not linearizable" in judge(list(history))[1][0]
    history = History([operation("write", 1, 1.0, 1.1), operation("read", 1, 1.2, 1.3)])
    assert judge(list(history)) == (
        {"writes": 1, "unknown_writes": 0, "linearizable_reads": {"a": 1}, "bounded_reads": 0},
        [],
    )
