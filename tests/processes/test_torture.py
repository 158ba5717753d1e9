"""Real nodes under real faults keep their promises, and the run leaves nothing behind."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raftlog.runtime import clock

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder():
    """As short as the path of a Unix socket must be, also beside other workers of the tests."""
    with tempfile.TemporaryDirectory(prefix="raftlog-") as made:
        yield Path(made)


def start(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment["TMPDIR"] = str(folder)
    command = [sys.executable, "-m", "raftlog.testing.torture", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(directory):
    """Pids of processes whose environment or command names the directory."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue  # gone meanwhile, or not ours
            if os.fsencode(directory) in text:
                found.append(int(folder.name))
    return found


def report_of(run):
    output, progress = run.communicate(timeout=400)
    assert output, progress
    report = json.loads(output)
    assert report["violations"] == [], f"{report['command']}\n" + "\n\n".join(report["violations"])
    assert run.returncode == 0
    assert report["verdict"] == "passed"
    assert (report["lost"], report["doubled"]) == (0, 0)
    assert report["databases_equal"]
    assert report["linearizable"] or report["serializable"]
    return report


def test_five_nodes_under_all_faults(folder, capsys):
    """A fresh seed each time; the failure's text begins with the command that repeats its schedule."""
    seed = random.SystemRandom().randrange(1 << 31)
    with capsys.disabled():
        sys.stdout.write(f"\ntorture seed {seed}\n")
    written = folder / "report.txt"
    report = report_of(start(folder, "--minutes", "0.8", "--seed", str(seed), "--json", "--report", str(written)))
    assert report["applied"] > 200
    assert report["history_operations"] > 200
    assert sum(report["faults"].values()) >= report["rounds"] >= 2
    assert "verdict: passed" in written.read_text()
    assert list(folder.glob("raftlog-torture-*")) == []
    assert processes_of(folder) == []


def test_proxies_stand_in_for_namespaces(folder):
    faults = "isolate,isolate_leader,one_way,bridge,no_majority"
    arguments = ("--minutes", "0.2", "--nodes", "3", "--network", "proxy", "--faults", faults, "--json")
    report = report_of(start(folder, *arguments))
    assert report["network"] == "proxy"
    assert report["applied"] > 50
    assert sum(report["faults"].values()) >= 1


def test_plain_orm_code_under_all_faults(folder, capsys):
    """A fresh seed each time, as above; transfers, get_or_create(), bulk_create() and deletes from five processes."""
    seed = random.SystemRandom().randrange(1 << 31)
    with capsys.disabled():
        sys.stdout.write(f"\ntorture seed {seed} (orm)\n")
    arguments = ("--workload", "orm", "--minutes", "0.3", "--nodes", "3", "--clients", "5", "--seed", str(seed))
    report = report_of(start(folder, *arguments, "--json"))
    assert report["applied"] > 100
    assert report["history_operations"] > 100
    assert report["conflicts"] > 0
    assert sum(report["faults"].values()) >= 1


@pytest.mark.parametrize(
    ("mutation", "kinds"),
    [("skip-certification-of-reads", "G2|G-single"), ("skip-certification", "lost update|G0|G1c|G2|G-single")],
)
def test_a_mutation_is_found_and_told(folder, mutation, kinds):
    """Certification is what makes it serializable: without it, the checker names transactions that have no order."""
    arguments = ("--workload", "orm", "--minutes", "0.1", "--nodes", "3", "--faults", "kill_client")
    run = start(folder, *arguments, "--mutation", mutation, "--json")
    output, progress = run.communicate(timeout=400)
    assert run.returncode == 1, progress
    violations = json.loads(output)["violations"]
    told = [text for text in violations if re.match(f"({kinds}): no serial order explains these", text)]
    assert told, violations
    assert re.search(r"\[rw\] .* read .* = .*, which .* replaced with", told[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(folder, number):
    run = start(folder, "--minutes", "5", "--nodes", "3")
    deadline = clock.monotonic() + 120
    while len(processes_of(folder)) < 8:  # three nodes, four clients, and itself
        assert clock.monotonic() < deadline
        assert run.poll() is None
        clock.sleep(0.1)
    run.send_signal(number)
    run.communicate(timeout=60)
    while processes_of(folder):
        assert clock.monotonic() < deadline + 60
        clock.sleep(0.1)
    if number == signal.SIGTERM:
        assert list(folder.glob("raftlog-torture-*")) == []
