"""A commit that gets no answer says so, in bounded time, and how it ended can be asked later (three real nodes)."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster

pytestmark = pytest.mark.processes

TIMEOUT = 2.0  # RAFTLOG["PROPOSAL_TIMEOUT"], seconds
BOUND = 30.0  # seconds, on a machine that is busy


class App:
    """An application process on the host of a node (orm_app.py)."""

    def __init__(self, node):
        command = [sys.executable, "-m", "tests.processes.orm_app"]
        self.process = subprocess.Popen(
            command, env=node.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def send(self, what, argument):
        self.process.stdin.write(json.dumps([what, argument]) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, what, argument):
        self.send(what, argument)
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unknown")
    options = {"PROPOSAL_TIMEOUT": TIMEOUT}
    with ProcessCluster(3, folder, settings_module="tests.processes.orm_settings", options=options) as made:
        made.start()
        made.wait_for_leader(timeout=60)
        made["a"].manage("migrate", timeout=120)
        made.wait_all_applied(timeout=60)
        yield made


@pytest.fixture(scope="module")
def askers(cluster):
    """Beside each node an application that knows nothing of what the others did."""
    apps = [App(node) for node in cluster]
    yield apps
    for app in apps:
        app.close()


@pytest.fixture
def leader(cluster):
    """The node that leads, with the others running and level."""
    for node in cluster:
        node.resume()
        if not node.is_running:
            node.start()
    name = cluster.wait_for_leader(timeout=60)
    cluster.wait_all_applied(timeout=60)
    return cluster[name]


@contextmanager
def app_of(node):
    app = App(node)
    try:
        assert app.ask("create", f"{node.node_id}{clock.monotonic()}").get("value", "") is None  # a session is open
        yield app
    finally:
        app.close()


def others(cluster, node):
    return [other for other in cluster if other is not node]


def assert_settled(askers, answer, name):
    """It was unknown; now every node can say that it was committed, and holds it once."""
    assert answer["is_unknown"], answer
    assert not answer["is_nothing"]
    assert answer["took"] < BOUND
    assert answer["proposal_id"]
    for app in askers:
        assert app.ask("outcome", [answer["proposal_id"], BOUND])["value"] is None
        assert app.ask("exists", name)["value"] == 1


def test_without_a_majority_the_outcome_is_unknown_and_told_later(cluster, leader, askers):
    with app_of(leader) as app:
        for node in others(cluster, leader):
            node.pause()
        answer = app.ask("create", "no majority")
        for node in others(cluster, leader):
            node.resume()
    assert_settled(askers, answer, "no majority")


def test_a_node_that_does_not_answer_leaves_it_unknown(cluster, leader, askers):
    node = others(cluster, leader)[0]
    with app_of(node) as app:
        node.pause()
        answer = app.ask("create", "cut off")
        node.resume()
    assert_settled(askers, answer, "cut off")


def test_a_node_killed_during_the_commit_leaves_it_unknown(cluster, leader, askers):
    with app_of(leader) as app:
        for node in others(cluster, leader):
            node.pause()
        entries = leader.status()["last_index"]
        app.send("create", "killed")
        cluster.wait_for(lambda found: found[leader.node_id]["last_index"] > entries, BOUND, "the entry is in the log")
        leader.send_signal(signal.SIGKILL)
        answer = app.answer()
        for node in others(cluster, leader):
            node.resume()
        leader.kill()
    assert answer["is_unknown"], answer
    assert answer["took"] < BOUND
    cluster.wait_for_leader(timeout=60, other_than=[leader.node_id])
    leader.start()
    cluster.wait_all_applied(timeout=60)
    # What it had sent to the others before it died may have been committed, or not; alike on all.
    found, told = set(), set()
    for app in askers:
        found.add(app.ask("exists", "killed")["value"])
        told.add(app.ask("outcome", [answer["proposal_id"], 0]).get("is_unknown", False))
    assert (found, told) in (({1}, {False}), ({0}, {True}))


def test_where_nothing_can_be_done_it_says_that_nothing_was(cluster, leader, askers):
    node = others(cluster, leader)[0]
    with app_of(node) as app:
        cluster.kill([other.node_id for other in others(cluster, node)])
        cluster.wait_for(lambda found: not found[node.node_id]["leader_id"], BOUND, "no leader is known")
        answer = app.ask("create", "nothing")
        assert answer["is_nothing"], answer
        assert answer["took"] < BOUND
        node.kill()
        down = app.ask("create", "nothing")
        if down["error"] == "TransactionOutcomeUnknown":  # it was sent before the end of the connection was seen
            down = app.ask("create", "nothing")
        assert down["error"] == "TransactionNotProposed"
        assert down["took"] < BOUND
        assert app.ask("exists", "nothing")["value"] == 0
    for other in cluster:
        other.start()
    cluster.wait_for_leader(timeout=60)
    cluster.wait_all_applied(timeout=60)
    assert [app.ask("exists", "nothing")["value"] for app in askers] == [0, 0, 0]
