"""The plan of `raft recover`, and the folder that it leaves, whatever crashes between."""

import msgspec
import pytest

from raftlog import conf
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import COMMAND, EntryBatch, Run
from raftlog.consensus.state import HardState
from raftlog.disaster import recovery, survivors
from raftlog.disaster.recovery import carry_out, make_plan
from raftlog.disaster.survivors import Survivor, SurvivorError
from raftlog.exceptions import DirectoryInUse, IdentityMismatch, StorageFailed
from raftlog.replication.position import check_position
from raftlog.runtime.loading import load_log
from raftlog.storage import open_storage

CLUSTER_ID = "c" * 32


def members(voters="abc", learners="", outgoing=""):
    servers = {name: Server(f"ws://{name}", name * 32) for name in sorted({*voters, *learners, *outgoing})}
    goal = {"goal_voters": tuple(voters), "goal_members": tuple(servers)} if outgoing else {}
    return Configuration(CLUSTER_ID, servers, tuple(voters), tuple(outgoing), tuple(learners), **goal)


def survivor(node_id, last_term=1, last_index=10, *, current_term=1, configuration=None):
    return Survivor(
        node_id, "shop", CLUSTER_ID, CLUSTER_ID, node_id * 32, current_term, last_index, last_term, 1000, 1,
        configuration or members(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("voters", "left", "may_lose"),
    [("abc", "a", True), ("abcde", "ab", True), ("abcd", "ab", False), ("ab", "a", False), ("abcdef", "abc", False)],
)
def test_whether_something_may_be_lost(voters, left, may_lose):
    configuration = members(voters)
    plan = make_plan(*_split([survivor(name, configuration=configuration) for name in left]))
    assert plan.may_lose is may_lose
    assert set(plan.lost) == set(voters) - set(left)


def _split(everybody):
    return everybody[0], everybody[1:]


def test_while_two_configurations_overlap_each_has_its_majority():
    joint = members("abc", outgoing="cde")
    with pytest.raises(SurvivorError, match="nothing to recover"):
        make_plan(*_split([survivor(name, configuration=joint) for name in "bcd"]))
    plan = make_plan(*_split([survivor(name, configuration=joint) for name in "ab"]))
    assert not plan.may_lose  # d and e commit nothing without a majority of a, b, c
    assert make_plan(survivor("a", configuration=joint), []).may_lose


def test_the_most_up_to_date_survivor_is_the_one():
    configuration = members("abcde")
    local = survivor("a", 2, 12, configuration=configuration)
    with pytest.raises(SurvivorError, match="run this on b"):
        make_plan(local, [survivor("b", 3, 11, configuration=configuration)])
    plan = make_plan(local, [survivor("b", 2, 11, configuration=configuration, current_term=5)])
    assert plan.survivor is local
    assert plan.later_term == 5
    assert plan.lost == ("c", "d", "e")


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ([survivor("b")], "nothing to recover: a, b are a majority"),
        ([survivor("a")], "a is given more than once"),
        ([msgspec.structs.replace(survivor("b"), cluster_id="d" * 32)], "b is of cluster_id"),
        ([msgspec.structs.replace(survivor("x"))], "x is no member any more"),
    ],
)
def test_what_is_refused(others, text):
    with pytest.raises(SurvivorError, match=text):
        make_plan(survivor("a"), others)


def test_a_survivor_whose_log_was_cut_holds_nothing_that_it_promised():
    configuration = members("abcd")
    whole, cut = (survivor(name, configuration=configuration) for name in "ab")
    cut = msgspec.structs.replace(cut, cut_from=3)
    assert not make_plan(whole, [survivor("b", configuration=configuration)]).may_lose
    assert make_plan(whole, [cut]).may_lose
    with pytest.raises(SurvivorError, match=r"was cut at entry 3 .* `raft leave`, then `raft init --adopt`"):
        make_plan(cut, [whole])


def test_a_learner_that_is_left_alone_will_do():
    configuration = members("abc", learners="d")
    plan = make_plan(survivor("d", configuration=configuration), [])
    assert plan.lost == ("a", "b", "c")


# The folder


@pytest.fixture
def settings(tmp_path):
    return conf.load_settings(
        {"CLUSTER": "shop", "NODE_ID": "a", "MEMBERS": {"a": "ws://a:1"}, "DATA_DIR": tmp_path / "raft"}
    )


@pytest.fixture
def folder(settings):
    """Of node a, which was a follower in term 4 and holds five entries of term 3."""
    storage = open_storage(settings.data_dir, node_id="a", cluster="shop", new_incarnation="a" * 32)
    payloads = [encode_configuration(members())] + [bytes([COMMAND]) + b"x" * 40] * 4
    storage.log.append(EntryBatch(1, [Run(5, 3, 1_000)], payloads))
    storage.log.sync()
    storage.set_cluster_id(CLUSTER_ID)
    storage.hard_state.save(HardState(4, "b"))
    storage.close()
    return settings.data_dir


class At:
    """A state machine whose database stands there."""

    def __init__(self, *position):
        self.position = lambda: position


def opened(settings):
    return open_storage(settings.data_dir, node_id="a", cluster="shop")


def check(settings, position):
    storage = opened(settings)
    try:
        check_position(At(*position), load_log(storage.log), storage.metadata.cluster_id)
    finally:
        storage.close()


def test_the_log_goes_on_as_that_of_a_cluster_of_one(settings, folder):
    plan = make_plan(survivors.read(folder), [])
    assert (plan.survivor.last_index, plan.survivor.last_term, plan.later_term) == (5, 3, 4)
    configuration = carry_out(plan, settings)
    assert configuration.cluster_id != CLUSTER_ID
    assert configuration.recovered_from == CLUSTER_ID
    assert configuration.servers == {"a": Server("ws://a:1", "a" * 32)}
    storage = opened(settings)
    log = load_log(storage.log)
    assert log.configuration == (6, configuration)
    assert (log.last_index, log.last_term) == (6, 5)
    assert storage.hard_state.load() == HardState(5, "a")
    assert storage.metadata.cluster_id == configuration.cluster_id
    storage.close()
    check(settings, (CLUSTER_ID, 4, 3))  # its database has not applied all of the former cluster's entries
    check(settings, (configuration.cluster_id, 6, 5))
    with pytest.raises(IdentityMismatch, match="belongs to cluster d"):
        check(settings, ("d" * 32, 4, 3))
    with pytest.raises(SurvivorError, match="nothing to recover"):
        make_plan(survivors.read(folder), [])


def test_an_interrupted_recovery_is_not_started_with_and_goes_on_where_it_was(settings, folder, monkeypatch):
    plan = make_plan(survivors.read(folder), [])

    def fails(*arguments):
        raise StorageFailed("the power went")

    with monkeypatch.context() as patched:
        patched.setattr("raftlog.storage.segmented_log.SegmentedLog.append", fails)
        with pytest.raises(StorageFailed):
            carry_out(plan, settings)
    with pytest.raises(IdentityMismatch, match="was interrupted here"):
        check(settings, (CLUSTER_ID, 5, 3))
    begun = survivors.read(folder)
    assert begun.cluster_id == CLUSTER_ID != begun.folder_cluster_id
    configuration = carry_out(make_plan(begun, []), settings)
    assert configuration.cluster_id == begun.folder_cluster_id
    check(settings, (CLUSTER_ID, 5, 3))


def test_a_folder_in_use_or_changed_meanwhile_is_left_alone(settings, folder):
    plan = make_plan(survivors.read(folder), [])
    storage = opened(settings)
    with pytest.raises(DirectoryInUse):
        carry_out(plan, settings)
    storage.log.append(EntryBatch(6, [Run(1, 4, 2_000)], [bytes([COMMAND]) + b"y" * 40]))
    storage.log.sync()
    storage.close()
    with pytest.raises(SurvivorError, match="has changed since"):
        carry_out(plan, settings)


def test_reports_travel_as_files(settings, folder, tmp_path):
    report = tmp_path / "a.json"
    found = survivors.read(folder)
    report.write_text(survivors.encode_report(found))
    assert survivors.read(report) == found
    report.write_text("{}")
    with pytest.raises(SurvivorError, match="no report"):
        survivors.read(report)
    with pytest.raises(SurvivorError, match="no folder of a node"):
        survivors.read(tmp_path)
    hard_state = folder / "hard_state"
    hard_state.write_bytes(b"\x01" + hard_state.read_bytes()[1:])
    with pytest.raises(SurvivorError, match="cannot be used"):
        survivors.read(folder)


def test_members_that_committed_alone_are_told_from_those_that_could_not():
    assert recovery.may_have_committed(members("abc"), {"b", "c"})
    assert not recovery.may_have_committed(members("abc"), {"b"})
