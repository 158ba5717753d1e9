"""A node in this process: folder, threads, signals."""

import queue

import pytest

from raftlog import conf, signals
from raftlog.consensus.events import BecameCandidate, BecameLeader, LeaderFound, SteppedDown, VoteGranted
from raftlog.consensus.log import RaftLog
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import TermRun
from raftlog.exceptions import DirectoryInUse, IdentityMismatch
from raftlog.node import Node, check_position, leader_after
from raftlog.runtime.log_only import LogOnlyStateMachine


def settings(tmp_path, **changes):
    return conf.load_settings(
        {"NODE_ID": "a", "MEMBERS": {"a": "ws://127.0.0.1:1"}, "DATA_DIR": str(tmp_path / "raft"), **changes}
    )


@pytest.fixture
def node(tmp_path):
    node = Node(settings(tmp_path), state_machine=LogOnlyStateMachine())
    node.start()
    yield node
    node.stop()


def test_a_cluster_of_one_leads_and_says_so_to_django(tmp_path):
    heard = queue.SimpleQueue()

    def leader(sender, leader_id, term, **kwargs):
        heard.put((leader_id, term))

    def members(sender, configuration, index, **kwargs):
        heard.put((configuration.voters, index))

    signals.leader_changed.connect(leader)
    signals.membership_changed.connect(members)
    node = Node(settings(tmp_path), state_machine=LogOnlyStateMachine())
    node.start()
    try:
        told = set()
        while not told >= {(("a",), 1), ("a", 1)}:
            told.add(heard.get(timeout=10))  # raises Empty where it is never told
    finally:
        node.stop()
        signals.leader_changed.disconnect(leader)
        signals.membership_changed.disconnect(members)


def test_a_receiver_that_fails_is_logged_and_harms_nobody(tmp_path, caplog):
    heard = queue.SimpleQueue()

    def broken(sender, **kwargs):
        raise ZeroDivisionError("in a receiver")

    def whole(sender, leader_id, **kwargs):
        heard.put(leader_id)

    signals.leader_changed.connect(broken)
    signals.leader_changed.connect(whole)
    node = Node(settings(tmp_path), state_machine=LogOnlyStateMachine())
    node.start()
    try:
        while heard.get(timeout=10) != "a":
            continue
    finally:
        node.stop()
        signals.leader_changed.disconnect(broken)
        signals.leader_changed.disconnect(whole)
    assert "in a receiver" in caplog.text


@pytest.mark.parametrize(
    ("event", "known"),
    [
        (BecameLeader(3), ("a", 3)),
        (LeaderFound(3, "b"), ("b", 3)),
        (SteppedDown(4, "no majority"), ("", 4)),
        (BecameCandidate(5), ("", 5)),
        (VoteGranted(5, "b"), None),
    ],
)
def test_what_an_event_says_of_the_leader(event, known):
    assert leader_after(event, "a") == known


def test_a_second_node_on_the_same_folder_is_refused(node, tmp_path):
    with pytest.raises(DirectoryInUse):
        Node(settings(tmp_path), state_machine=LogOnlyStateMachine()).start()


def test_a_folder_of_another_node_is_refused(tmp_path):
    first = Node(settings(tmp_path), state_machine=LogOnlyStateMachine())
    first.start()
    first.stop()
    other = settings(tmp_path, NODE_ID="b", MEMBERS={"b": "ws://127.0.0.1:1"})
    with pytest.raises(IdentityMismatch, match=r"'a'.*'b'|'b'.*'a'"):
        Node(other, state_machine=LogOnlyStateMachine()).start()


class AtPosition(LogOnlyStateMachine):
    def __init__(self, *position):
        super().__init__()
        self._position = position

    def position(self):
        return self._position


@pytest.mark.parametrize(
    ("position", "word"),
    [
        (("", 0, 0), None),  # a new or deleted database is rebuilt from the log
        (("c" * 32, 4, 2), None),
        (("c" * 32, 6, 2), "ends at 5"),
        (("c" * 32, 4, 1), "of term 1"),
        (("d" * 32, 4, 2), "belongs to cluster d"),
    ],
)
def test_a_database_that_is_no_point_of_the_log_is_refused(position, word):
    """Rule 5 of the design."""
    log = RaftLog(last_index=5, term_runs=[TermRun(1, 1), TermRun(3, 2)])
    if word is None:
        check_position(AtPosition(*position), log, "c" * 32)
        return
    with pytest.raises(IdentityMismatch, match=word):
        check_position(AtPosition(*position), log, "c" * 32)


def test_a_database_older_than_what_the_log_holds_is_not_refused():
    """An image brings it up."""
    log = RaftLog(base=LogBase(index=5, term=2), last_index=7, term_runs=[TermRun(6, 2)])
    check_position(AtPosition("c" * 32, 4, 1), log, "c" * 32)
    with pytest.raises(IdentityMismatch, match="belongs to cluster d"):
        check_position(AtPosition("d" * 32, 4, 1), log, "c" * 32)


def test_a_node_whose_log_was_lost_is_told_to_be_replaced():
    with pytest.raises(IdentityMismatch, match="raft replace"):
        check_position(AtPosition("c" * 32, 4, 1), RaftLog(), "")
