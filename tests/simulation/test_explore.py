"""Model exploration within small bounds: nothing falls; with a known bug, the shortest way to it is printed."""

import io
import json

import pytest

from raftlog.consensus.log import RaftLog
from raftlog.consensus.messages import InstallSnapshot
from raftlog.testing.explore import Bounds, Explorer, main
from raftlog.testing.model_server import copy, digest, first_server, take_step
from raftlog.testing.mutations import mutated


def test_a_small_space_is_explored_whole_and_no_invariant_falls():
    result = Explorer(Bounds(terms=2, proposals=0, crashes=0, messages=3)).run()
    assert result.violation == ""
    assert result.is_complete
    assert result.states > 500
    assert result.depth > 10


@pytest.mark.parametrize(
    "bounds", [Bounds(states=15_000), Bounds(states=10_000, pre_vote=True, losses=1, duplicates=1)]
)
def test_no_invariant_falls_within_the_first_states(bounds):
    result = Explorer(bounds).run()
    assert result.violation == ""
    assert result.states >= bounds.states


def test_no_invariant_falls_where_logs_are_compacted_and_images_come_at_any_moment():
    """One server has another entry than the committed one in its log, whose place an image takes."""
    bounds = Bounds(states=12_000, terms=4, diverged=True, compactions=1, crashes=1, proposals=0, messages=4)
    explorer = Explorer(bounds)
    result = explorer.run()
    assert result.violation == ""
    assert any(isinstance(message, InstallSnapshot) for message in explorer.messages)
    assert any(server.log.base.index == 2 and server.node_id == "c" for server in explorer.servers)


def test_a_log_that_keeps_what_contradicts_a_snapshot_is_found(monkeypatch):
    """§7: it is to be discarded."""
    monkeypatch.setattr(RaftLog, "reset_to", lambda self, base: None)
    result = Explorer(Bounds(states=5_000, terms=4, diverged=True, compactions=1)).run()
    assert result.violation
    assert "deliver Image" in result.trace[-1]


@pytest.mark.parametrize("name", ["vote-twice", "minority-elects", "leader-counts-unsynced"])
def test_a_bug_is_found_by_the_fewest_actions(name):
    with mutated(name):
        result = Explorer(Bounds(states=20_000)).run()
    assert result.violation
    assert len(result.trace) <= 6


def test_the_command_says_what_it_saw():
    out = io.StringIO()
    assert main(["--states", "2000", "--json"], out) == 0
    result = json.loads(out.getvalue())
    assert result["states"] >= 2000
    assert result["violation"] == ""
    out = io.StringIO()
    assert main(["--states", "2000", "--mutation", "minority-elects"], out) == 1
    assert "an invariant fell" in out.getvalue()
    assert "campaign" in out.getvalue()


def test_a_server_is_copied_whole_and_a_step_leaves_the_original_alone():
    server = first_server("a")
    name = digest(server)
    assert digest(copy(server)) == name
    step = take_step(server, "campaign", None)
    assert step is not None
    assert digest(server) == name
    assert digest(step.raft) != name
    assert {message.recipient for message in step.sent} == {"b", "c"}
