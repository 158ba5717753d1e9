"""`raft status` adds up what each member says, and says plainly when nobody leads."""

import io
import json

import pytest
from django.template import loader
from rich.console import Console

from raftlog import conf
from raftlog.exceptions import NodeUnavailable
from raftlog.management.output import Output
from raftlog.management.raft import status as module

ADDRESSES = {"a": "ws://127.0.0.1:1001", "b": "ws://127.0.0.1:1002", "c": "ws://127.0.0.1:1003"}


@pytest.fixture
def config():
    return conf.load_settings({"NODE_ID": "a", "MEMBERS": ADDRESSES})


def said_by(node_id, role="follower", term=3, leader="b", applied=10, **changes):
    members = {
        name: {
            "address": address,
            "voter": True,
            "learner": False,
            "last_contact": 0.1,
            "lag": 0,
            "round_trip": 0.00123,
        }
        for name, address in ADDRESSES.items()
    }
    return {
        "node_id": node_id, "cluster_id": "f00", "role": role, "current_term": term, "leader_id": leader,
        "commit_index": applied, "last_applied": applied, "last_index": applied, "healthy": True, "problems": [],
        "members": members,
    } | changes  # fmt: skip


def asking(local, **remote):
    """`ask` of a cluster in which only these answer."""

    def ask(target):
        found = local if target is None else remote.get({v: k for k, v in ADDRESSES.items()}[target])
        if found is None:
            raise NodeUnavailable("no answer")
        return found

    return ask


def test_with_a_leader_and_a_majority_it_names_the_leader_and_who_is_unreachable(config):
    report = module.collect(config, asking(said_by("a", applied=7), b=said_by("b", role="leader")))
    assert report["exit_code"] == 0
    assert report["leader_id"] == "b"
    assert module.sentence(report) == "b leads in term 3 (2 of 3 voters answer)."
    rows = {row["node_id"]: row for row in report["members"]}
    assert rows["a"]["behind"] == 3
    assert not rows["c"]["reachable"]
    assert "NodeUnavailable" in rows["c"]["error"]


def test_a_voter_that_the_leader_does_not_hear_is_not_up_though_it_answers_us(config):
    leader = said_by("b", role="leader")
    leader["members"]["a"]["last_contact"] = 6.2
    report = module.collect(config, asking(said_by("a", leader=""), b=leader, c=said_by("c")))
    assert (report["voters_answering"], report["voters_up"]) == (3, 2)
    assert module.health(report) == "2 of 3 up; none may fail."
    assert [row["node_id"] for row in report["members"] if row["silent"]] == ["a"]


def test_an_election_is_told_from_a_lost_majority(config):
    candidates = asking(said_by("a", role="candidate", leader=""), b=said_by("b", leader=""))
    report = module.collect(config, candidates)
    assert (report["exit_code"], report["leader_id"]) == (1, None)
    assert "election is going on" in module.sentence(report)
    report = module.collect(config, asking(said_by("a", leader="")))
    assert (report["exit_code"], report["majority"]) == (1, False)
    assert module.sentence(report).startswith("No leader (1 of 3 voters answer: no majority")


def test_a_deposed_leader_of_an_older_term_is_not_the_leader(config):
    report = module.collect(config, asking(said_by("a", role="leader", term=2), b=said_by("b", role="leader", term=3)))
    assert report["leader_id"] == "b"


def test_a_leader_without_a_majority_is_no_success(config):
    report = module.collect(config, asking(said_by("a", role="leader", leader="a")))
    assert report["exit_code"] == 1
    assert "nothing can be written" in module.sentence(report)


def test_the_members_of_the_settings_are_asked_where_the_local_node_is_down(config):
    report = module.collect(config, asking(None, b=said_by("b", role="leader"), c=said_by("c")))
    assert (report["exit_code"], report["leader_id"]) == (0, "b")


def test_where_nobody_answers_it_says_so(config):
    report = module.collect(config, asking(None))
    assert report["exit_code"] == 2
    assert "raft run" in module.sentence(report)


def test_members_that_the_log_knows_are_asked_and_learners_do_not_vote(config):
    local = said_by("a", role="leader", leader="a")
    local["members"]["d"] = {"address": ADDRESSES["c"], "voter": False, "learner": True, "last_contact": None, "lag": 4}
    report = module.collect(config, asking(local, b=said_by("b")))
    assert report["voters"] == 3
    assert {row["node_id"]: row["lag"] for row in report["members"]}["d"] == 4


def test_the_table_and_the_json_say_the_same(config):
    report = module.collect(config, asking(said_by("a"), b=said_by("b", role="leader")))
    text, data = io.StringIO(), io.StringIO()
    module.show(report, Output(text))
    module.show(report, Output(data, as_json=True))
    assert "unreachable" in text.getvalue()
    assert json.loads(data.getvalue())["members"][2]["reachable"] is False


FACTS = {
    "disk": {"taken": 3_000_000, "free": 8_000_000_000, "total": 10_000_000_000},
    "snapshots": {
        "pulling": {"step": "pulling an image from", "from": "b", "percent": 42.4},
        "serving": {"making": None, "images": []},
        "compaction": {"log_bytes": 2_000_000, "files": 3, "problem": ""},
    },
}


def test_the_terminal_tells_what_the_cluster_page_tells(config):
    behind = said_by("a", applied=7, commit_index=9, warnings=["the disk is full: no room"], **FACTS)
    leader = said_by("b", role="leader", write_turn={"holder": "c", "fence": True})
    text = io.StringIO()
    module.show(module.collect(config, asking(behind, b=leader)), Output(text))
    lines = text.getvalue().splitlines()
    assert lines[0].endswith("c has the write turn for a schema change.")
    columns, row = lines[1], next(line for line in lines if line.startswith("a "))
    for name in ("behind", "backlog", "trip", "log", "folder", "free", "image"):
        assert name in columns.split()
    for value in ("3", "2", "1.23 ms", "2.0 MB", "3.0 MB", "8.0 GB", "pulling an image from b, 42 %"):
        assert f" {value} " in row
    assert any(line.startswith("a the disk is full: no room  → Make room on that host") for line in lines)
    assert any(line.startswith("c cannot be reached") and "→ Start `manage.py raft run`" in line for line in lines)


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (160, 1)])
def test_in_a_narrow_terminal_no_word_is_broken(config, width, tables):
    large = {"applied": 1_234_567, **FACTS}
    leader, candidate = said_by("b", role="leader", **large), said_by("c", role="pre_candidate", **large)
    report = module.collect(config, asking(said_by("a", **large), b=leader, c=candidate))
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(module.rendered(report))
    lines = console.file.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("node ")]) == tables
    text = "\n".join(lines)
    for word in ("committed", "follower", "pre-candidate", "1,234,567", "ws://127.0.0.1:1003"):
        assert word in text


@pytest.mark.parametrize("lacking", sorted(said_by("b") | FACTS | {"configuration": None, "warnings": None}))
def test_a_node_of_another_version_may_leave_out_any_key_of_its_status(with_admin, lacking):
    from raftlog.admin.cluster import fragment_context

    config = conf.load_settings({"NODE_ID": "a", "MEMBERS": ADDRESSES})
    configuration = {"voters": list("abc"), "outgoing": [], "goal_voters": [], "learners": []}
    whole = {"configuration": configuration, "warnings": [], "version": "1", "links": {}, **FACTS}
    for role in ("leader", "follower"):
        local, remote = said_by("a", role="leader", **whole), said_by("b", **whole)
        (local if role == "leader" else remote).pop(lacking)
        text = io.StringIO()
        report = module.collect(config, asking(local, b=remote))
        module.show(report, Output(text))
        assert "reach" in text.getvalue()
        rows = {row["node_id"]: row for row in report["members"]}
        assert [rows["a"]["reachable"], rows["b"]["reachable"], rows["c"]["reachable"]] == [True, True, False]
        page = loader.render_to_string("admin/raftlog/cluster/_cluster.html", fragment_context(report))
        assert page.count("cannot be reached") >= 2  # of the picture and the table: c, and nobody else
        assert ("unknown" in page) is (lacking == "role")
        assert ("unknown" in text.getvalue()) is (lacking == "role")
