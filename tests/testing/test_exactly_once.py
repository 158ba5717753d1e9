"""The trial of exactly-once, small; that it finds what is done twice; and what its judge says."""

import random
import socket

import pytest

from raftlog.testing.cutting import CuttingProxy
from raftlog.testing.trials.exactly_once import ExactlyOnce, judge


def options(**given):
    small = {"nodes": 3, "proposals": 6, "transactions": 6, "clients": 1, "think": 0.5, "timeout": 240.0}
    return small | {"kill_every": 1.0, "mutation": None} | given


def run(tmp_path, **given):
    return ExactlyOnce().run(options(**given), tmp_path, random.Random(1), lambda text: None)


@pytest.mark.processes
def test_each_job_is_done_once(tmp_path):
    report = run(tmp_path)
    assert report["problems"] == []
    assert report["nodes_equal"]
    assert report["retried_jobs"] == report["jobs"] == 12
    assert report["clients_killed"] + report["leaders_killed"] + report["connections_cut"] >= 1


@pytest.mark.processes
def test_without_keys_it_finds_what_is_done_twice(tmp_path):
    report = run(tmp_path, nodes=1, clients=2, kill_every=60.0, proposals=3, transactions=3, mutation="no-key")
    assert any("were done more than once: c0" in problem for problem in report["problems"])


def contents(done, counters=(("commands", 1), ("transactions", 1))):
    rows = [(pk, job, number) for pk, (job, number) in enumerate(done, 1)]
    return {"once_site_done": rows, "once_site_counter": list(counters), "raftlog_idempotencykey": []}


GOOD = [("c0", 1), ("t0", 1)]
TOLD = {"c0": {"1"}, "t0": {"1"}}


@pytest.mark.parametrize(
    ("done", "told", "words"),
    [
        (GOOD, TOLD, ""),
        ([*GOOD, ("c0", 2)], TOLD, "1 jobs were done more than once: c0"),
        (GOOD[:1], TOLD, "1 jobs were not done: t0"),
        ([*GOOD, ("c1", 2)], TOLD, "the counter of commands says 1, there are 2 rows"),
        (GOOD, TOLD | {"c0": {"1", "2"}}, "of 1 jobs callers were told other numbers: c0"),
        (GOOD, {"c0": {"1"}}, "1 jobs have no answer: t0"),
    ],
)
def test_what_the_judge_says(done, told, words):
    problems = judge(["c0", "t0"], {"a": contents(done)}, told)
    assert any(words in problem for problem in problems) if words else problems == []


def test_nodes_that_differ_are_found():
    other = contents([("t0", 1), ("c0", 1)])
    assert "the nodes do not hold the same" in judge(["c0", "t0"], {"a": contents(GOOD), "b": other}, TOLD)


def test_the_proxy_carries_bytes_until_it_cuts(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "node"))
        server.listen()
        proxy = CuttingProxy(tmp_path / "proxy", tmp_path / "node")
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "proxy"))
                near, _ = server.accept()
                with near:
                    client.sendall(b"question")
                    assert near.recv(100) == b"question"
                    near.sendall(b"answer")
                    assert client.recv(100) == b"answer"
                    assert proxy.cut() == 1
                    assert client.recv(100) == near.recv(100) == b""
        finally:
            proxy.close()
