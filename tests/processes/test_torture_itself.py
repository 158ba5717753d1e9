"""What is wrong is found and told; and a run that is ended leaves nothing behind."""

import json
import re
import signal

import pytest

from raftlog.runtime import clock
from tests.processes.torturing import processes_of, short_folder, start

pytestmark = pytest.mark.processes


@pytest.fixture
def folder():
    with short_folder() as made:
        yield made


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
