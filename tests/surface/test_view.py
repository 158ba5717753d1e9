"""What the members' answers add up to, in a sentence that an operator can act on."""

import pytest

from raftlog.observing.live import group, quantiles
from raftlog.observing.picture import picture, warnings
from raftlog.observing.view import health, kind_of
from raftlog.runtime.measures import BUCKETS, Histogram, Marks


@pytest.mark.parametrize(
    ("voters", "up", "leader", "text"),
    [
        (3, 3, "a", "3 of 3 up; one more may fail."),
        (5, 3, "a", "3 of 5 up; none may fail."),
        (5, 5, "a", "5 of 5 up; 2 more may fail."),
        (3, 2, None, "2 of 3 up, and an election is going on."),
        (3, 1, None, "1 of 3 up: no majority, nothing can be written; bring one more back."),
        (5, 1, "a", "1 of 5 up: no majority, nothing can be written; bring 2 more back."),
        (1, 1, "a", "1 of 1 up; it is the only one: nothing is replicated."),
        (3, 0, None, "No voter can be reached."),
    ],
)
def test_health_says_how_much_more_may_fail(voters, up, leader, text):
    assert health({"voters": voters, "voters_up": up, "leader_id": leader}) == text


@pytest.mark.parametrize(
    ("node_id", "kind"), [("a", "voter"), ("c", "leaving"), ("d", "joining"), ("e", "learner"), ("x", "learner")]
)
def test_what_a_member_is_while_one_replaces_another(node_id, kind):
    configuration = {"voters": ["a", "b", "c"], "outgoing": [], "goal_voters": ["a", "b", "d"], "learners": ["e"]}
    assert kind_of(node_id, configuration) == kind


def row(node_id, **changes):
    return {
        "node_id": node_id, "reachable": True, "healthy": True, "role": "follower", "kind": "voter", "error": "",
        "links": {}, "problems": [], "warnings": [], "behind": 0, "disk": None, "silent": False, "last_contact": 0.1,
    } | changes  # fmt: skip


def test_a_link_that_only_one_side_has_is_down():
    rows = [row("a", links={"b": True}), row("b", links={"a": False}), row("c", reachable=False, error="refused")]
    drawn = picture({"members": rows, "leader_id": "a"})
    assert [link["kind"] for link in drawn["links"]] == ["down", "down", "down"]
    assert [node["state"] for node in drawn["nodes"]] == ["follower", "follower", "down"]


def test_a_link_over_which_the_leader_hears_nothing_is_down():
    links = {"a": True, "b": True, "c": True}
    rows = [row("a", links=links), row("b", links=links, silent=True), row("c", links=links)]
    drawn = picture({"members": rows, "leader_id": "a"})
    assert [link["kind"] for link in drawn["links"]] == ["down", "leads", "peers"]


def test_names_and_numbers_stand_away_from_the_links():
    drawn = picture({"members": [row("a"), row("b"), row("c")], "leader_id": "a"})
    assert [node["label_y"] < 0 for node in drawn["nodes"]] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "report", "text", "advice"),
    [
        (
            {
                "reachable": False,
                "error": "NodeUnavailable: the node at ws://h:1 cannot be reached: [Errno 111] refused",
            },
            {},
            "cannot be reached: [Errno 111] refused",
            "Start",
        ),
        (
            {
                "reachable": False,
                "error": "NodeUnavailable: the node at ws://h:1 cannot be reached: no answer within 1 s",
            },
            {},
            "cannot be reached: no answer within 1 s",
            "Its process hangs",
        ),
        ({"silent": True, "last_contact": 6.2}, {}, "b, which leads, has not heard from it for 6 s", "See the network"),
        ({"problems": ["no leader is known"]}, {}, "no leader is known", "b leads: see the network"),
        ({"problems": ["no leader is known"]}, {"leader_id": None}, "no leader is known", "An election is going on"),
        (
            {"problems": ["no leader is known"]},
            {"leader_id": None, "majority": False},
            "no leader is known",
            "Bring voters back",
        ),
    ],
)
def test_a_warning_fits_what_is_the_case(changes, report, text, advice):
    (found,) = warnings({"members": [row("a", **changes)], "leader_id": "b", "majority": True} | report)
    assert found["text"] == text
    assert found["advice"].startswith(advice)


def test_a_node_that_is_cut_off_has_one_warning_not_two():
    cut = row("a", silent=True, last_contact=6.2, problems=["no leader is known"])
    assert len(warnings({"members": [cut], "leader_id": "b", "majority": True})) == 1


def test_warnings_say_what_to_do():
    rows = [
        row("a", problems=["the disk is full: no space left"], healthy=False),
        row("b", behind=5_000, disk={"taken": 1, "free": 1, "total": 100}),
        row("c", reachable=False, error="refused"),
    ]
    found = [(each["node_id"], each["advice"].split(" ")[0]) for each in warnings({"members": rows})]
    assert found == [("a", "Make"), ("b", "It"), ("b", "Make"), ("c", "Start")]


def test_marks_count_every_entry_of_a_batch_once():
    marks = Marks()
    marks.reached(10, 13, 1.0)  # entries 11 to 13
    marks.reached(13, 14, 2.0)
    marks.passed(13, 1.5)
    assert (marks.histogram.count, round(marks.histogram.total, 3)) == (3, 1.5)
    marks.passed(20, 2.25)
    assert marks.histogram.count == 4
    assert not marks


def test_entries_whose_indices_were_others_before_are_counted_too():
    marks = Marks()
    marks.reached(10, 20, 1.0)
    marks.passed(20, 1.5)
    marks.forget()  # leadership was lost, and the log cut to 12
    marks.reached(12, 16, 2.0)
    marks.passed(16, 2.5)
    assert marks.histogram.count == 10 + 4


def test_quantiles_lie_within_the_bucket():
    histogram = Histogram()
    for _ in range(99):
        histogram.observe(0.0015)
    histogram.observe(20.0)  # above the last bound
    low, high, last = quantiles(histogram.counts, (0.5, 0.99, 1.0))
    assert 0.001 < low <= high <= 0.002
    assert last == BUCKETS[-1]
    assert quantiles([0, 0], (0.5,)) == [None]


def test_names_of_groups_are_what_channel_layers_take():
    assert group("my shop/é", "a") == "raftlog.my_shop___a"
