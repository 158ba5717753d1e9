"""Cases of growing work and of failures: what they make of their figures."""

import queue
from types import SimpleNamespace

import pytest

from benchmarks import failover, growth, join, rows, slow
from benchmarks.cases import load
from benchmarks.goals import GOALS

LOG = [
    "2026-11-25 23:59:59,707 INFO raftlog.snapshots: d: pulling an image at entry 7 from a: 13588120 bytes, 0 are here",
    "2026-11-26 00:00:00,019 WARNING raftlog.snapshots: d: the database is now an image at entry 7, with 201395 rows",
]


def test_an_image_takes_from_the_question_to_its_installation_also_over_midnight():
    assert join.image_seconds(LOG) == pytest.approx(0.312)


def test_an_image_that_was_asked_for_again_counts_from_the_first_question():
    again = LOG[0].replace("23:59:59,707", "23:59:59,907")
    assert join.image_seconds([LOG[0], again, LOG[1]]) == pytest.approx(0.312)


@pytest.mark.parametrize("lines", [[], LOG[:1], LOG[1:]])
def test_a_node_that_joined_without_an_image_has_no_figure(lines):
    with pytest.raises(LookupError, match="pulled and installed"):
        join.image_seconds(lines)


def test_the_healthy_measurement_comes_first_in_every_other_pair():
    assert [slow.order(pair) for pair in range(3)] == [(False, True), (True, False), (False, True)]


def test_a_share_is_made_of_the_two_of_one_pair():
    pairs = [{True: 90.0, False: 100.0}, {False: 50.0, True: 50.0}, {True: 5.0, False: 0.0}]
    assert slow.over(pairs) == [0.9, 1.0]


def test_a_disk_is_slow_and_a_process_stopped_only_inside_their_blocks(tmp_path):
    disks = slow.Disks(tmp_path, ["a", "b"])
    control = tmp_path / "b.faults.json"
    with slow.slow_disk(disks, "b"):
        assert control.read_text() == '{"sync": {"delay": 0.1}}'
    assert control.read_text() == "{}"
    assert (tmp_path / "a.faults.json").read_text() == "{}"

    states = []
    node = SimpleNamespace(pause=lambda: states.append("stopped"), resume=lambda: states.append("running"))
    with slow.stopped_in_pulses(node):
        while len(states) < 3:
            pass
    assert states[:3] == ["stopped", "running", "stopped"]
    assert states[-1] == "running"


def test_pulses_are_shorter_than_an_election_timeout_so_that_the_node_is_slow_and_not_gone():
    assert slow.STOPPED < 0.5
    assert slow.STOPPED > 3 * slow.RUNNING


def test_outages_are_a_row_of_all_and_their_distribution():
    found = list(failover.rows("first write after a kill", [0.01 * n for n in range(1, 11)], "ten times"))
    by_quantile = {row.params["quantile"]: row for row in found if "quantile" in row.params}
    assert by_quantile["median"].values == [10.0 * n for n in range(1, 11)]
    assert by_quantile["median"].median == 55.0
    assert by_quantile["max"].values == [100.0]
    assert [row.values[0] for row in found if row.params.get("percent") == 100] == [100.0]


def test_an_outage_ends_with_a_write_that_was_begun_after_the_strike():
    prober = failover.Prober(SimpleNamespace(client=lambda: None))
    for begun, ended in ((1.0, 2.5), (1.9, 2.6), (2.1, 2.9), (2.95, 3.0)):
        prober._done.put((begun, ended))
    assert prober.first_begun_after(2.0) == 2.9, "the first two were under way when the leader was struck"
    assert prober.latencies() == [pytest.approx(0.05)]
    with pytest.raises(queue.Empty):
        prober._done.get_nowait()


def test_a_log_is_filled_until_it_has_what_it_is_to_have(monkeypatch):
    applied = [0]
    seconds = []

    def run_clients(leader, load):
        seconds.append(load.seconds)
        applied[0] += round(load.seconds * 150_000)

    monkeypatch.setattr(growth, "run_clients", run_clients)
    growth.fill(SimpleNamespace(wait_all_applied=lambda timeout: applied[0]), None, 1_000_000)
    assert 1_000_000 <= applied[0] < 1_100_000, "the last of the fills is short"
    assert max(seconds) <= 3.0


def test_latencies_of_all_writers_are_sorted_together():
    worked = [SimpleNamespace(measured=SimpleNamespace(latencies=each)) for each in ([3.0, 1.0], [2.0])]
    assert rows.latencies(SimpleNamespace(worked=worked)) == [1.0, 2.0, 3.0]


def test_goals_ask_for_circumstances_that_a_full_run_has():
    """Of the cases of growth; the others name their params by hand."""
    assert {10_000, 1_000_000} <= set(growth.ENTRIES) & set(rows.ROWS)
    assert join.ROWS == 1_000_000
    cases = load()
    assert all(cases[name].by_default for name in ("rows", "slow follower", "snapshot", "growth", "failover"))
    assert len({goal.text for goal in GOALS if not goal.text.startswith("…")}) > 15
