"""Settings of the application beside which ours is measured."""

import pytest

from raftlog.testing.bench.transactions import stock_environment
from raftlog.testing.processes import NodeProcess

OPTIONS = {"NODE_ID": "a", "MEMBERS": {"a": "ws://127.0.0.1:1"}, "CLUSTER": "bench"}


@pytest.mark.parametrize("variables", [{}, {"RAFTLOG_BENCH_TRACE": "/tmp/trace"}], ids=["untraced", "traced"])
def test_the_stock_application_has_djangos_backend_a_file_of_its_own_and_writes_no_trace(tmp_path, variables):
    node = NodeProcess(OPTIONS | {"DATA_DIR": str(tmp_path / "raft")}, tmp_path, ["/bin/true"], variables)
    found = stock_environment(node, tmp_path / "stock.sqlite3")
    assert found["RAFTLOG_BENCH_ENGINE"] == "django.db.backends.sqlite3"
    assert found["RAFTLOG_DATABASE"] == str(tmp_path / "stock.sqlite3") != node.environment["RAFTLOG_DATABASE"]
    assert "RAFTLOG_BENCH_TRACE" not in found
