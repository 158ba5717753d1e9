"""Transactions on SQLite in the simulation: no seed finds anything, a seed is one run, and much happens in it."""

import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from raftlog.testing.simulate import main
from raftlog.testing.simulation import Options, simulate
from tests.simulation.test_simulation import first_seed

ROOT = Path(__file__).parents[2]
HASH = "from raftlog.testing.simulation import *; print(simulate(Options(4, 3, workload='sql')).trace_hash)"


def run(*arguments):
    out = io.StringIO()
    code = main([*arguments, "--workload", "sql", "--nodes", "3", "--jobs", "1"], out)
    return code, out.getvalue()


def test_seeds_find_no_violation():
    first = first_seed()
    code, text = run("--seeds", f"{first}-{first + 14}")
    assert code == 0, text


def test_the_same_seed_gives_the_same_run_whatever_the_order_of_sets():
    hashes = {simulate(Options(4, 3, workload="sql")).trace_hash}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        answer = subprocess.run(
            [sys.executable, "-c", HASH], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        hashes.add(answer.stdout.strip())
    assert len(hashes) == 1


def test_databases_work_while_they_are_attacked():
    """The checks would hold of a cluster that does nothing."""
    counters = Counter()
    for seed in (0, 2, 7, 9, 17, 18):
        report = simulate(Options(seed, 3, workload="sql"))
        assert not report.violation
        counters += report.counters
    endings = ("applied", "read", "rolled back", "conflict", "integrity")
    kinds = ("transactions", "commands", "schema changes", "reservations")
    events = ("turns granted", "power failures", "kills", "applications killed", "given up")
    happened = {*(f"transactions {ending}" for ending in endings), *(f"proposed: {kind}" for kind in kinds), *events}
    for what in happened | {"commands applied", "commands integrity"}:
        assert counters[what] > 0, what
    assert counters["transactions applied"] > 100


def test_a_failing_seed_prints_what_the_transaction_did_and_the_command_that_replays_it():
    code, text = run("--seeds", "0", "--mutation", "capture-kept-after-rollback")
    assert code == 1
    assert "ROLLBACK TO" in text or "UPDATE" in text
    line = next(line for line in text.splitlines() if "replay: " in line)
    command = line.partition("python -m raftlog.testing.simulate ")[2].split()
    again = io.StringIO()
    assert main(command, again) == 1
    fell = next(line for line in text.splitlines() if " fell at step " in line)
    assert fell in again.getvalue()


def test_the_simulation_without_databases_needs_no_django():
    program = "import sys, raftlog.testing.simulate; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
