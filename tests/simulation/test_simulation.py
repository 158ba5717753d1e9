"""Whole clusters in virtual time: one seed, one run; none of them finds anything; a failing one says how to see it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog.testing.faults import OPERATIONS, PlannedFault
from raftlog.testing.mutations import MUTATIONS, mutated
from raftlog.testing.shrink import shrink
from raftlog.testing.simulate import main, seed_range
from raftlog.testing.simulation import Options, Report, simulate

ROOT = Path(__file__).parents[2]
HASHES = "from raftlog.testing.simulation import *; print([simulate(Options(s)).trace_hash for s in (3, 4)])"


def run(*arguments):
    out = io.StringIO()
    code = main([*arguments, "--jobs", "1"], out)
    return code, out.getvalue()


def first_seed():
    """0, so that a run of the tests is repeatable; RAFTLOG_SIMULATION_SEED=12345, or =fresh, for others."""
    chosen = os.environ.get("RAFTLOG_SIMULATION_SEED", "0")
    return int.from_bytes(os.urandom(4), "big") if chosen == "fresh" else int(chosen)


@pytest.mark.parametrize(("nodes", "seeds"), [(3, 40), (5, 120), (7, 10)])
def test_seeds_find_no_violation(nodes, seeds):
    first = first_seed()
    code, text = run("--seeds", f"{first}-{first + seeds - 1}", "--nodes", str(nodes))
    print(text)
    assert code == 0, text


def test_with_leases_too():
    first = first_seed()
    code, text = run("--leases", "--seeds", f"{first}-{first + 29}", "--nodes", "3")
    print(text)
    assert code == 0, text
    assert "fault: hand-over-cut-off" in text


def test_the_same_seed_gives_the_same_run_event_by_event():
    one, two, other = simulate(Options(5)), simulate(Options(5)), simulate(Options(6))
    assert one.trace_hash == two.trace_hash
    assert (one.steps, one.operations, one.entries) == (two.steps, two.operations, two.entries)
    assert one.trace_hash != other.trace_hash


@pytest.mark.parametrize("name", ["acknowledged-before-sync", "directory-not-synced"])
def test_a_run_that_loses_much_is_the_same_again_too(name):
    """More than one file with unsynced writes at a crash: the order of their losses must not be that of a set."""
    with mutated(name):
        runs = {(report.trace_hash, report.violation) for report in (simulate(Options(seed)) for seed in (0, 0, 0))}
    assert len(runs) == 1


def test_a_run_does_not_depend_on_the_order_of_sets():
    answers = {
        subprocess.run(
            [sys.executable, "-c", HASHES],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_clusters_work_while_they_are_attacked():
    """The checks would hold of a cluster that does nothing."""
    reports = [simulate(Options(seed)) for seed in range(12)]
    assert sum(report.operations for report in reports) > 300
    assert sum(report.entries for report in reports) > 300
    counters = sum((report.counters for report in reports), start=type(reports[0].counters)())
    faults = ("LogTruncated", "SteppedDown", "power failures", "kills", "fetched from disk", "given up")
    members = ("changes begun", "changes refused", "RemovedFromCluster", "MemberLeft")
    disks = ("compactions", "images installed", "fault: lose-database", "repairs", "repaired nodes that vote again")
    for what in (*faults, *members, *disks):
        assert counters[what] > 0, what


def test_every_operation_happens():
    planned = {fault.name for seed in range(40) for fault in simulate(Options(seed, events=1)).faults}
    del planned  # what is planned depends on the events; what can be drawn is the registry's
    assert {"partition", "one-way", "bridge", "power-in-call", "kill-in-call", "fsync-fails", "disk-full"} <= set(
        OPERATIONS
    )
    assert all(operation.weight > 0 for operation in OPERATIONS.values())


def test_a_failing_seed_prints_invariant_step_and_the_command_that_replays_it():
    code, text = run("--seeds", "0-3", "--mutation", "leader-counts-unsynced", "--stop")
    assert code == 1
    line = next(line for line in text.splitlines() if "replay: " in line)
    command = line.partition("python -m raftlog.testing.simulate ")[2].split()
    assert command[-2:] == ["--mutation", "leader-counts-unsynced"]
    again, replayed = run(*command)
    assert again == 1
    fell = next(line for line in text.splitlines() if " fell at step " in line)
    assert fell in replayed


def test_the_result_as_json():
    code, text = run("--seeds", "0-1", "--events", "300", "--json")
    result = json.loads(text)
    assert code == 0
    assert result["seeds"] == 2
    assert result["violations"] == []
    assert result["seeds_per_minute_per_core"] > 0


def test_the_trace_of_a_run_is_written_whole(tmp_path):
    run("--seeds", "1", "--events", "200", "--trace", str(tmp_path / "trace"))
    lines = (tmp_path / "trace").read_text().splitlines()
    assert len(lines) > 100
    assert any("became leader" in line for line in lines)


def test_mutations_are_listed_one_a_line():
    code, text = run("--list-mutations")
    assert code == 0
    assert text.split("\n") == [*MUTATIONS, ""]
    assert len(MUTATIONS) >= 15


def test_a_history_that_is_not_linearizable_is_drawn(tmp_path):
    page = tmp_path / "page.html"
    for seed in range(40):
        code, _ = run("--seeds", str(seed), "--mutation", "no-dedup", "--html", str(page))
        if page.exists():
            break
    assert code == 1
    assert "op failed" in page.read_text()


@pytest.mark.parametrize(("text", "seeds"), [("7", [7]), ("0-3", [0, 1, 2, 3]), ("1,5,9", [1, 5, 9])])
def test_seeds_are_read(text, seeds):
    assert list(seed_range(text)) == seeds


def test_shrinking_leaves_out_what_is_not_needed():
    """Faults 3 and 7 together break it, from event 50 on."""
    faults = [PlannedFault(number, 10 * number, "power") for number in range(10)]

    def simulated(options):
        left = [fault for fault in faults if fault.number not in options.without]
        breaks = {3, 7} <= {fault.number for fault in left} and options.events >= 50
        return Report(options, steps=60, invariant="it" if breaks else "", faults=left)

    smallest = shrink(simulated(Options(1)), simulated)
    assert [fault.number for fault in smallest.faults] == [3, 7]
    assert 50 <= smallest.options.events <= 60


def test_a_shrunk_run_still_fails():
    with mutated("acknowledged-before-sync"):
        report = next(filter(lambda r: r.invariant, (simulate(Options(seed)) for seed in range(20))))
        smaller = shrink(report, max_runs=12)
        assert smaller.invariant == report.invariant
        before, after = report.options, smaller.options
        assert (after.events, -len(after.without)) < (before.events, -len(before.without))
        assert simulate(smaller.options).trace_hash == smaller.trace_hash
