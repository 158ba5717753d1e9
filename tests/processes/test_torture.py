"""Real nodes under real faults keep their promises, and the run leaves nothing behind."""

import random
import sys

import pytest

from tests.processes.torturing import processes_of, report_of, short_folder, start

pytestmark = pytest.mark.processes


@pytest.fixture
def folder():
    with short_folder() as made:
        yield made


def test_five_nodes_under_all_faults(folder, capsys):
    """A fresh seed each time; the failure's text begins with the command that repeats its schedule."""
    seed = random.SystemRandom().randrange(1 << 31)
    with capsys.disabled():
        sys.stdout.write(f"\ntorture seed {seed}\n")
    written = folder / "report.txt"
    report = report_of(start(folder, "--minutes", "0.4", "--seed", str(seed), "--json", "--report", str(written)))
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
