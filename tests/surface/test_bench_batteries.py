"""`raft bench --batteries`: both sides are measured by the same kind of process; what is not, is named."""

import io
import json

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from raftlog.testing.bench import batteries, battery_client, redis_side
from raftlog.testing.bench.battery_client import Work


def test_a_row_becomes_a_figure_with_its_ratio():
    figure = batteries.compare("counters", ("value()", "reads", 500.04, "Redis GET", 2000.0))
    assert (figure.battery, figure.per_second, figure.theirs_per_second, figure.ratio) == (
        "counters",
        500.0,
        2000.0,
        0.25,
    )
    alone = batteries.compare("flags", ("set()", "changes", 10.0, "", None))
    assert (alone.theirs_per_second, alone.ratio) == (None, None)


def test_what_does_not_answer_is_named_and_not_measured(monkeypatch):
    monkeypatch.setattr(redis_side, "URL", "redis://127.0.0.1:1/9")
    name, figure = redis_side.side("Redis GET", lambda: pytest.fail("it was asked all the same"))
    assert figure is None
    assert name.startswith("Redis GET (not measured: ")


def test_every_battery_is_found_and_can_be_named():
    found = batteries.find_batteries()
    assert {"counters", "flags", "locks", "queue", "sequences"} <= found.keys()
    with pytest.raises(CommandError, match="--only nothing: there is no such battery; there are "):
        call_command("raft", "bench", "--batteries", "--only=nothing")


def test_an_action_is_made_once_for_each_thread():
    actions = battery_client.make_actions(Work(f"{__name__}:counted", 1.0, threads=3, arguments={"step": 2}))
    assert [action() for action in actions] == [2, 2, 2]
    assert [action() for action in actions] == [4, 4, 4]


def counted(step):
    count = 0

    def act():
        nonlocal count
        count += step
        return count

    return act


@pytest.mark.processes
def test_batteries_are_measured_on_three_nodes_and_one_that_fails_takes_no_other_away(tmp_path, monkeypatch):
    """Short, so that the figures mean nothing here; that there are some means that every action runs to its end."""
    found = batteries.find_batteries()

    def broken(cluster, seconds):
        raise ZeroDivisionError("as planned")

    monkeypatch.setattr(batteries, "find_batteries", lambda: {"broken": broken, "flags": found["flags"]})
    stream = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("raft", "bench", "--batteries", "--json", "--seconds=0.1", f"--dir={tmp_path}", stdout=stream)
    assert ended.value.code == 1
    report = json.loads(stream.getvalue())
    assert report["not_measured"] == {"broken": "ZeroDivisionError: as planned"}
    assert [figure["battery"] for figure in report["figures"]] == ["flags"] * 4
    assert all(figure["per_second"] > 0 for figure in report["figures"])
    assert list(tmp_path.iterdir()) == []
