"""Metrics as Prometheus reads them, probes, and a dashboard that asks for nothing that does not exist."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from raftlog.testing.processes import ProcessCluster
from raftlog.transport.routing import PEER_PATH

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
TOKEN = "a token that only the scraper knows"
NAME = re.compile(r"raftlog_[a-z0-9_]+")


def get(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    options = {"METRICS_TOKEN": TOKEN}
    with ProcessCluster(3, tmp_path_factory.mktemp("metrics"), options=options) as cluster:
        cluster.start()
        cluster.migrate()
        cluster["a"].manage(
            "shell", "-v", "0", "-c",
            "from demo_site.bank.models import Account\n"
            "for n in range(20): Account.objects.create(name=str(n), balance=1, paid_in=1)",
        )  # fmt: skip
        cluster.wait_all_applied()
        yield cluster


def scrape(node):
    status, text = get(f"{node.http_address}/raft/metrics", Authorization=f"Bearer {TOKEN}")
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families, name, **labels):
    family = next(f for f in families.values() if any(s.name == name for s in f.samples))
    return next(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())


def test_prometheus_own_parser_reads_them_and_they_are_true(cluster):
    leader = cluster.wait_for_leader()
    families = scrape(cluster[leader])
    status = cluster[leader].status()
    assert value(families, "raftlog_role", raftlog_role="leader") == 1
    assert value(families, "raftlog_commit_index") == status["commit_index"]
    assert value(families, "raftlog_voters") == 3
    assert value(families, "raftlog_stage_seconds_count", stage="commit") >= 20
    assert value(families, "raftlog_outcomes_total", outcome="applied") >= 20
    assert {s.labels["peer"] for s in families["raftlog_peer_lag"].samples} == set("abc") - {leader}
    trips = families["raftlog_peer_round_trip_seconds"].samples
    assert {s.labels["peer"] for s in trips} == set("abc") - {leader}
    assert all(0 < s.value < 5 for s in trips)
    follower = next(node for node in cluster if node.node_id != leader)
    assert not scrape(follower)["raftlog_peer_round_trip_seconds"].samples
    for stage in ("sync", "replicate", "commit", "apply"):
        count = value(families, "raftlog_stage_seconds_count", stage=stage)
        assert value(families, "raftlog_stage_seconds_bucket", stage=stage, le="+Inf") == count
        assert 0 < value(families, "raftlog_stage_seconds_sum", stage=stage) / count < 10


def test_the_dashboard_and_the_reference_name_what_there_is(cluster):
    exposed = {s.name for f in scrape(cluster["a"]).values() for s in f.samples}
    exposed |= {f.name for f in scrape(cluster["a"]).values()}
    exposed |= {
        f"{name}_total" for name in exposed if "refused_connections" in name
    }  # it has no sample before a refusal
    queries = [
        target["expr"]
        for panel in json.loads((ROOT / "docs/grafana/raftlog.json").read_text())["panels"]
        for target in panel["targets"]
    ]
    assert queries
    asked = {name for query in queries for name in NAME.findall(query)} - {"raftlog_role"}
    assert asked <= exposed | {"raftlog_stage_seconds_bucket"}
    told = set(NAME.findall((ROOT / "docs/reference/metrics.md").read_text()))
    families = {f.name + ("_total" if f.type == "counter" else "_info" if f.type == "info" else "")
                for f in scrape(cluster["a"]).values()}  # fmt: skip
    assert families <= told


def test_a_frame_that_is_refused_is_counted_by_its_reason(cluster):
    node = cluster["c"]
    assert value(scrape(node), "raftlog_refused_frames_total", reason="bad frame") == 0
    with connect(node.address + PEER_PATH) as stranger:
        stranger.send(b"?")
        with pytest.raises(ConnectionClosed):
            stranger.recv(10)
    families = scrape(node)
    assert value(families, "raftlog_refused_frames_total", reason="bad frame") == 1
    assert value(families, "raftlog_refused_connections_total", reason="bad frame") == 1
    assert value(families, "raftlog_image_steps_total", step="pull", outcome="done") == 0


def test_only_who_may_sees_them(cluster):
    address = f"{cluster['b'].http_address}/raft/metrics"
    assert get(address)[0] == 403
    assert get(address, Authorization="Bearer wrong")[0] == 403
    assert "raftlog_term" in cluster["b"].manage("raft", "metrics")


def test_probes_tell_a_node_that_works_from_one_without_a_leader(cluster):
    node = cluster[cluster.wait_for_leader()]
    assert get(f"{node.http_address}/raft/healthz") == (200, '{"ok": true, "problems": []}')
    assert get(f"{node.http_address}/raft/readyz")[0] == 200
    for other in cluster:
        if other is not node:
            other.kill()
    cluster.wait_for(lambda found: found[node.node_id]["role"] != "leader", 30, "the leader steps down")
    code, text = get(f"{node.http_address}/raft/readyz")
    assert (code, json.loads(text)["why"]) == (503, "no leader is known")
    assert get(f"{node.http_address}/raft/healthz")[0] == 503
