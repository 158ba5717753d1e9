"""Three nodes that speak wss with certificates on both sides."""

import json
import sys
from pathlib import Path

import pytest

from raftlog.testing.processes import ProcessCluster, free_ports
from tests.transport.conftest import certificates

__all__ = ["certificates"]  # a fixture
pytestmark = pytest.mark.processes

MANAGE = [sys.executable, str(Path(__file__).parents[2] / "manage.py")]


def test_nodes_with_certificates_elect_a_leader_and_replicate(tmp_path, certificates):
    members = {name: f"wss://127.0.0.1:{port}" for name, port in zip("abc", free_ports(3), strict=True)}
    options = {
        "MEMBERS": members,
        "TLS_CERTIFICATE": certificates["server_certificate"],
        "TLS_KEY": certificates["server_key"],
        "TLS_CA": certificates["ca_certificate"],
    }
    with ProcessCluster(3, tmp_path, command=MANAGE, options=options) as cluster:
        cluster.start()
        cluster.migrate()
        leader = cluster.wait_for_leader(40)
        follower = next(node for node in cluster if node.node_id != leader)
        code = "from demo_site.bank.commands import open_account; print(open_account.propose(name='ada'))"
        assert int(follower.manage("shell", "-c", code).split()[-1]) == 1
        report = json.loads(follower.manage("raft", "status", "--json"))
        assert report["voters_answering"] == 3
        cluster.wait_all_applied(30)
