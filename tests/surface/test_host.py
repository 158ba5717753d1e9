"""A process that needs the node of a one-voter cluster becomes it, and lets go; elsewhere it says how to start one."""

import os
import threading

import pytest

from raftlog import conf, host
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import OPEN_SESSION, EntryBatch, Run, client_payload
from raftlog.consensus.state import HardState
from raftlog.exceptions import DirectoryInUse, NodeUnavailable
from raftlog.host import HostProposer
from raftlog.node import Node
from raftlog.node_process import start_when_free
from raftlog.replication.client_session import BlockingAnswers
from raftlog.runtime import clock
from raftlog.runtime.log_only import LogOnlyStateMachine
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED
from raftlog.storage import open_storage
from raftlog.storage.interest import Interest


@pytest.fixture
def settings(tmp_path):
    return conf.load_settings({"DATA_DIR": str(tmp_path / "raft"), "STATE_MACHINE": "log"})


@pytest.fixture
def make(settings):
    made = []

    def make_proposer():
        made.append(HostProposer(settings))
        return made[-1]

    yield make_proposer
    for proposer in made:
        proposer.leave()


def propose(proposer, timeout=20.0):
    answers = BlockingAnswers(1)
    payload = client_payload(OPEN_SESSION, os.urandom(16), 0, 0, b"")
    proposer.propose([payload], timeout, lambda outcomes: answers.put(0, outcomes[0]))
    assert answers.wait(timeout + 10)
    return answers.outcomes[0]


def wait_until(condition):
    deadline = clock.monotonic() + 30
    while not condition():
        assert clock.monotonic() < deadline
        clock.sleep(0.01)


def is_free(settings):
    node = Node(settings, state_machine=LogOnlyStateMachine())
    try:
        node.start()
    except DirectoryInUse:
        return False
    node.stop()
    return True


def test_a_process_is_the_node_while_it_proposes_and_lets_go_when_it_is_idle(make, settings):
    proposer = make()
    assert propose(proposer).status == APPLIED
    assert proposer.status()["role"] == "leader"
    wait_until(lambda: is_free(settings))
    second = propose(proposer)
    assert second.status == APPLIED
    assert second.index > 3  # the log goes on where it was


def test_those_who_want_it_take_turns_within_their_time_limits(make):
    first, second = make(), make()
    outcomes = []

    def work(proposer):
        for _ in range(20):
            outcomes.append(propose(proposer))

    threads = [threading.Thread(target=work, args=(proposer,)) for proposer in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [outcome.status for outcome in outcomes] == [APPLIED] * 60
    assert len({outcome.index for outcome in outcomes}) == 60  # nothing lost, nothing twice


def test_interest_makes_the_owner_let_go_before_it_is_idle(make, settings, monkeypatch):
    monkeypatch.setattr(host, "IDLE_TIME", 3600.0)
    proposer = make()
    propose(proposer)
    assert not is_free(settings)
    node = Node(settings)
    told = []
    start_when_free(node, told.append)
    try:
        assert str(os.getpid()) in told[0]
        assert not Interest(settings.data_dir).is_shown()
    finally:
        node.stop()


def test_the_clusters_turn_keeps_the_node_here_until_it_is_over(make, settings, monkeypatch):
    monkeypatch.setattr(host, "IDLE_TIME", 0.0)
    monkeypatch.setattr(host, "TURN_STAY", 3600.0)
    proposer = make()
    assert proposer.take_turn(b"k" * 24, is_fence=False, timeout=20)
    for _ in range(10):
        clock.sleep(host.LOOK_INTERVAL)
        assert not is_free(settings)
    proposer.release_turn(b"k" * 24)
    wait_until(lambda: is_free(settings))


def test_who_waits_for_another_node_in_vain_is_told_that_nothing_was_done(make, settings):
    node = Node(settings)
    node.start()  # without a socket, so nobody can be its client
    try:
        outcome = propose(make(), timeout=0.2)
    finally:
        node.stop()
    assert outcome.status == NOT_PROPOSED
    assert f"process {os.getpid()}".encode() in outcome.result


def test_the_configuration_in_the_log_decides_who_is_a_cluster_by_itself(settings, make):
    raw = {"DATA_DIR": str(settings.data_dir), "STATE_MACHINE": "log"}
    several = conf.load_settings({**raw, "MEMBERS": {"node1": "ws://127.0.0.1:1", "b": "ws://127.0.0.1:2"}})
    with pytest.raises(NodeUnavailable, match=r"manage\.py raft run"):
        propose(HostProposer(several))
    assert not settings.data_dir.exists()
    propose(make())
    outcome = propose(HostProposer(several))
    assert outcome.status == APPLIED  # the log knows of one voter


@pytest.fixture
def several_voters(settings):
    """The folder of a host whose log has two voters."""
    storage = open_storage(settings.data_dir, node_id="node1", cluster="raftlog", new_incarnation="cd" * 16)
    servers = {"node1": Server("ws://127.0.0.1:1", storage.metadata.incarnation), "b": Server("ws://127.0.0.1:2", "ab")}
    payload = encode_configuration(Configuration("ab" * 16, servers, ("b", "node1")))
    storage.hard_state.save(HardState(1, ""))
    storage.log.append(EntryBatch(1, [Run(1, 1, 1)], [payload]))
    storage.log.sync()
    storage.close()


def test_a_log_with_several_voters_is_left_to_raft_run(several_voters, make):
    outcome = propose(make())
    assert outcome.status == NOT_PROPOSED
    assert b"voters are b, node1: start this host's node with `manage.py raft run`" in outcome.result


@pytest.mark.parametrize(("seconds", "times"), [(3600.0, 1), (0.0, 3)])
def test_a_log_with_several_voters_is_not_opened_for_each_proposal(several_voters, make, monkeypatch, seconds, times):
    """Opening it is reading it; it is asked again after a while, since `raft recover` may have made it one voter's."""
    opened = []
    start = Node.start
    monkeypatch.setattr(Node, "start", lambda node, refuse: (opened.append(node), start(node, refuse)))
    monkeypatch.setattr(host, "SEVERAL_FOR", seconds)
    proposer = make()
    refused = []
    for _ in range(3):
        try:
            refused.append(propose(proposer).result)
        except NodeUnavailable as error:
            refused.append(str(error).encode())
        wait_until(lambda: proposer._keeper is None)
    assert all(b"voters are b, node1" in words for words in refused)
    assert len(opened) == times


def test_a_node_that_answered_may_have_changed_the_voters(several_voters, make, monkeypatch):
    proposer = make()
    propose(proposer)
    wait_until(lambda: proposer._keeper is None)
    monkeypatch.setattr(proposer._client, "propose", lambda payloads, timeout, done: None)
    proposer.propose([], 1.0, lambda outcomes: None)
    monkeypatch.undo()
    assert propose(proposer).status == NOT_PROPOSED, "the log was opened again, and said so"


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_its_parent_to_let_go(make):
    proposer = make()
    propose(proposer)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        proposer._start_over()  # as host._forked() does for the process's own
        status = propose(proposer).status
        proposer.leave()
        os.write(writer, b"%d" % status)
        os._exit(0)
    try:
        for _ in range(20):
            assert propose(proposer).status == APPLIED
    finally:
        os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 10) == b"%d" % APPLIED
    os.close(reader)


# Linearizable reads


def read(proposer, timeout=20.0):
    answers, answered = [], threading.Event()

    def done(index, reason):
        answers.append((index, reason))
        answered.set()

    proposer.read(timeout, done)
    assert answered.wait(timeout + 10)
    return answers[0]


def test_who_only_reads_is_the_node_too_for_a_moment(make, settings):
    first, second = make(), make()
    index, reason = read(first)
    assert index > 0
    assert reason == ""
    assert read(second) == (index + 1, "")  # the no-op of its own term; the first one has let go
    written = propose(first)
    assert read(second)[0] > written.index
    wait_until(lambda: is_free(settings))


def test_reads_and_proposals_of_several_threads_take_turns(make):
    first, second = make(), make()
    stale = []

    def work(proposer, other):
        for _ in range(10):
            index = propose(proposer).index
            if read(other)[0] < index:
                stale.append(index)

    threads = [threading.Thread(target=work, args=pair) for pair in ((first, second), (second, first), (first, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert stale == []


def test_a_read_in_vain_says_who_is_the_node(make, settings):
    node = Node(settings)
    node.start()
    try:
        index, reason = read(make(), timeout=0.2)
    finally:
        node.stop()
    assert index == 0
    assert f"process {os.getpid()}" in reason


def test_a_read_without_a_node_and_with_several_voters_says_how_to_start_one(settings):
    raw = {"DATA_DIR": str(settings.data_dir), "STATE_MACHINE": "log"}
    several = conf.load_settings({**raw, "MEMBERS": {"node1": "ws://127.0.0.1:1", "b": "ws://127.0.0.1:2"}})
    with pytest.raises(NodeUnavailable, match=r"manage\.py raft run"):
        read(HostProposer(several))
