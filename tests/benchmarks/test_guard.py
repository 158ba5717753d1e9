import io
import json
import time

import pytest
from rich.console import Console

from benchmarks import guard
from benchmarks.guard import RATIOS, RECORDED, collapsed, show, turn_seconds
from raftlog.runtime.ports import APPLIED, Outcome

BEFORE = {"latency": 0.4, "clients": 2.0}


VERDICTS = [
    ("the least of both count", {"latency": [(0.4, 9.0), (7.0, 1.0)], "clients": [(2.0, 1.0)]}, []),
    (
        "a floor that was disturbed does not help",
        {"latency": [(0.1, 1.0), (9.0, 9.0)], "clients": [(2.0, 1.0)]},
        ["latency"],
    ),
    ("a little more than half", {"latency": [(0.21, 1.0)], "clients": [(1.01, 1.0)]}, []),
    ("a little less than half", {"latency": [(0.19, 1.0)], "clients": [(0.99, 1.0)]}, ["latency", "clients"]),
    ("better than recorded", {"latency": [(4.0, 1.0)], "clients": [(20.0, 1.0)]}, []),
]


@pytest.mark.parametrize(("found", "fallen"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS])
def test_a_ratio_below_half_of_the_recorded_one_has_collapsed(found, fallen):
    assert collapsed(found, BEFORE) == fallen


def test_a_ratio_that_nobody_measured_is_no_success():
    with pytest.raises(KeyError, match="clients"):
        collapsed({"latency": [(0.4, 1.0)]}, BEFORE)


def test_what_is_recorded_is_what_is_measured():
    recorded = json.loads(RECORDED.read_text())
    assert recorded.keys() == RATIOS.keys()
    assert all(ratio > 0 for ratio in recorded.values())


@pytest.mark.parametrize(("share", "status", "word"), [(0.9, 0, "ok"), (0.45, 1, "COLLAPSED")])
def test_the_command_fails_where_a_ratio_has_collapsed(monkeypatch, capsys, share, status, word):
    recorded = json.loads(RECORDED.read_text())
    found = {name: [(ratio, 1.0), (2 * ratio, 5.0)] for name, ratio in recorded.items()}
    found["latency"] = [(share * recorded["latency"], 1.0)]
    monkeypatch.setattr(guard, "measure", lambda folder: found)
    monkeypatch.setattr("sys.argv", ["guard"])
    assert guard.main() == status
    assert word in capsys.readouterr().out


def test_every_try_is_shown():
    out = io.StringIO()
    show({"latency": [(0.25, 1.0), (0.5, 1.0)], "clients": [(0.5, 1.0)]}, BEFORE, Console(file=out, width=160))
    assert "0.25 0.5" in out.getvalue()
    assert "COLLAPSED" in out.getvalue()


def test_a_turn_of_the_loop_takes_time():
    assert 0 < turn_seconds() < 1e-3


class Node:
    """A node that applies at once."""

    def propose(self, payloads, timeout, done):
        done([Outcome(payload[1:25], APPLIED, 1, b"") for payload in payloads])


def test_each_try_gives_every_ratio(monkeypatch, tmp_path):
    monkeypatch.setattr(guard, "SECONDS", 0.02)
    monkeypatch.setattr(guard, "floor_seconds", lambda folder: 0.001)
    parts = {name: above / below for name, above, below in guard.one_try(Node(), tmp_path, time.perf_counter)}
    assert parts.keys() == RATIOS.keys()
    assert all(ratio > 0 for ratio in parts.values())
