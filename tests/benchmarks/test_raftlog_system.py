import pytest

from benchmarks.loops import closed_loop, pipelined
from benchmarks.systems import Pipelines, find
from benchmarks.systems.raftlog import LOG, ORM, LogClient, row_id
from raftlog.runtime.ports import APPLIED, UNKNOWN, Outcome
from raftlog.testing.bench.client import BenchmarkFailed


def test_both_are_found_by_name():
    found = find()
    assert found["raftlog"] is LOG
    assert found["raftlog, through the ORM"] is ORM


def test_a_row_of_a_key_is_always_the_same_and_fits_a_bigint():
    assert row_id("a") == row_id("a") != row_id("b")
    assert 0 < row_id("a") < 2**63


class Proposer:
    def __init__(self, status, index):
        self.status, self.index = status, index

    def propose(self, payloads, timeout, done):
        done([Outcome(payload[1:25], self.status, 1, b"") for payload in payloads])

    def read(self, timeout, done):
        done(self.index, "" if self.index else "there is no leader")


def test_a_put_or_get_that_did_not_happen_raises():
    LogClient(Proposer(APPLIED, 7)).put("k", b"v")
    assert LogClient(Proposer(APPLIED, 7)).get("k") is None
    with pytest.raises(BenchmarkFailed):
        LogClient(Proposer(UNKNOWN, 0)).put("k", b"v")
    with pytest.raises(BenchmarkFailed, match="there is no leader"):
        LogClient(Proposer(UNKNOWN, 0)).get("k")


@pytest.mark.processes
def test_a_log_of_real_nodes_takes_closed_loops_and_pipelines(tmp_path):
    with LOG.start(tmp_path, 3) as target:
        assert isinstance(target, Pipelines)
        measured = closed_loop(target, 2, 0.3)
        assert measured.count > 0
        assert measured.trouble == ""
        assert pipelined(target, 0.3).count > 0
        assert closed_loop(target, 1, 0.2, operation="get").count > 0
