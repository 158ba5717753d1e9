"""The checks can fail: each known bug is found by the simulation (raftlog/testing/known_bugs.py)."""

import io
from pathlib import Path

import pytest

from raftlog.testing.mutations import MAX_SEEDS, MUTATIONS, first_seed, markdown, mutated, recorded
from raftlog.testing.simulate import main
from raftlog.testing.simulation import Options, simulate


def test_every_mutation_has_a_recorded_seed_below_the_limit():
    assert set(recorded()) == set(MUTATIONS)
    assert all(entry["seed"] < MAX_SEEDS for entry in recorded().values())


def test_the_table_in_the_docs_is_the_recorded_one():
    """After a search: python -m raftlog.testing.mutations --markdown, into docs/safety.md."""
    assert markdown() in (Path(__file__).parents[2] / "docs" / "safety.md").read_text()


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_simulation_finds(name):
    """At its recorded seed; where the code has changed since, at another below the limit."""
    entry = recorded()[name]
    mutation = MUTATIONS[name]
    options = Options(
        entry["seed"], entry["nodes"], entry["events"], workload=mutation.workload, leases=mutation.leases
    )
    with mutated(name):
        found = simulate(options).violation
    assert found or first_seed(name) is not None
    if found:
        assert not simulate(options).violation, "without the mutation the seed is clean"


def test_a_mutation_is_switched_off_again():
    before = simulate(Options(2)).trace_hash
    with mutated("no-dedup"):
        assert simulate(Options(2)).trace_hash != ""
    assert simulate(Options(2)).trace_hash == before


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_command_line_finds_a_mutation_in_its_own_process_and_in_workers(jobs):
    seed = str(recorded()["commit-older-term"]["seed"])
    seeds = f"{seed}-{int(seed) + 1}"
    arguments = ["--seeds", seeds, "--nodes", "5", "--jobs", jobs]
    assert main([*arguments, "--mutation", "commit-older-term"], out=io.StringIO()) == 1
    assert main(arguments, out=io.StringIO()) == 0
