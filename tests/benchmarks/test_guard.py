import io
import json
import time

import pytest
from rich.console import Console

from benchmarks import guard
from benchmarks.guard import RATIOS, RECORDED, collapsed, show, turn_seconds
from raftlog.runtime.ports import APPLIED, Outcome

BEFORE = {"latency": 0.4, "clients": 2.0}


def test_the_best_of_several_tries_counts():
    assert collapsed({"latency": [0.01, 0.3, 0.02], "clients": [1.1, 0.1]}, BEFORE) == []


def test_a_ratio_below_half_of_the_recorded_one_has_collapsed():
    assert collapsed({"latency": [0.19, 0.15], "clients": [2.2]}, BEFORE) == ["latency"]


def test_a_ratio_that_nobody_measured_is_no_success():
    with pytest.raises(KeyError, match="clients"):
        collapsed({"latency": [0.4]}, BEFORE)


def test_what_is_recorded_is_what_is_measured():
    recorded = json.loads(RECORDED.read_text())
    assert recorded.keys() == RATIOS.keys()
    assert all(ratio > 0 for ratio in recorded.values())


@pytest.mark.parametrize(("share", "status", "word"), [(0.9, 0, "ok"), (0.45, 1, "COLLAPSED")])
def test_the_command_fails_where_a_ratio_has_collapsed(monkeypatch, capsys, share, status, word):
    recorded = json.loads(RECORDED.read_text())
    found = {name: [0.1 * ratio, ratio] for name, ratio in recorded.items()}
    found["latency"] = [0.1 * share * recorded["latency"], share * recorded["latency"]]
    monkeypatch.setattr(guard, "measure", lambda folder: found)
    monkeypatch.setattr("sys.argv", ["guard"])
    assert guard.main() == status
    assert word in capsys.readouterr().out


def test_every_try_is_shown():
    out = io.StringIO()
    show({"latency": [0.25, 0.5], "clients": [0.5]}, BEFORE, Console(file=out, width=160))
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
    ratios = dict(guard.one_try(Node(), tmp_path, time.perf_counter))
    assert ratios.keys() == RATIOS.keys()
    assert all(ratio > 0 for ratio in ratios.values())
