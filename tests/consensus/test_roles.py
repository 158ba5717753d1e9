import pytest

from raftlog.consensus import roles
from raftlog.consensus.events import BecameLeader, ConfigurationChanged
from raftlog.consensus.state import Role
from tests.consensus.cluster import Cluster, members


@pytest.mark.parametrize("old", Role)
@pytest.mark.parametrize("new", Role)
def test_a_role_changes_only_along_the_table(old, new):
    """Figure 4, with pre-candidates."""
    raft = Cluster("a", "b", "c", formed=True).rafts["a"]
    raft.role = old
    if new in roles.LEGAL_MOVES[old]:
        roles.set_role(raft, new)
        assert raft.role is new
    else:
        with pytest.raises(roles.IllegalMove, match=f"cannot become {new.value} from {old.value}"):
            roles.set_role(raft, new)


def test_nobody_leads_without_having_been_a_candidate():
    assert [old for old, moves in roles.LEGAL_MOVES.items() if Role.LEADER in moves] == [Role.CANDIDATE]


def test_a_new_leader_appends_a_no_op_and_a_first_leader_the_configuration():
    """Dissertation §6.4; rule 4 of the design."""
    cluster = Cluster("a", "b", "c")
    cluster.campaign("a")
    assert cluster.rafts["a"].log.last_index == 1
    assert cluster.rafts["a"].configuration == members("a", "b", "c", incarnations=True)
    cluster.elect("b")
    assert cluster.rafts["b"].log.last_index == 2
    assert [event.last_log_index for event in cluster.events["b"] if isinstance(event, BecameLeader)] == [1]


def test_a_configuration_is_in_force_as_soon_as_it_is_in_the_log():
    cluster = Cluster("a", "b", "c")
    cluster.full_disks |= {"a", "b", "c"}
    cluster.campaign("a")
    assert cluster.rafts["b"].configuration_index == 1
    assert cluster.rafts["b"].commit_index == 0
    assert any(isinstance(event, ConfigurationChanged) for event in cluster.events["b"])


def test_events_are_log_lines():
    cluster = Cluster("a", "b", "c")
    cluster.campaign("a")
    assert [str(event) for event in cluster.events["a"]] == [
        "became pre-candidate in term 0: heard from no leader for an election timeout",
        "became candidate in term 1 (last_log=0:0)",
        "became leader in term 1 (last_log_index=0, commit_index=0)",
        "uses the configuration at index 1 in term 1 (voters: a, b, c)",
    ]
