"""`manage.py raft`: the verbs are found, teach with --help, and end with exit codes that scripts can use."""

import io
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from raftlog import conf
from raftlog.consensus.configuration import Configuration, Server
from raftlog.exceptions import DirectoryInUse, HandshakeRefused, NodeUnavailable
from raftlog.management import members
from raftlog.management.commands.raft import Command
from raftlog.management.raft import add, check, run, status
from raftlog.management.verbs import find_verbs

ROOT = Path(__file__).parents[2]
MEMBERS = {"a": "ws://127.0.0.1:1001", "b": "ws://127.0.0.1:1002", "c": "ws://127.0.0.1:1003"}


def raft(*arguments):
    """(exit code, what was printed)"""
    output = io.StringIO()
    try:
        call_command("raft", *arguments, stdout=output)
    except SystemExit as exit_:
        return exit_.code, output.getvalue()
    return 0, output.getvalue()


@pytest.mark.parametrize("verb", find_verbs(), ids=lambda verb: verb.name)
def test_each_verb_teaches_by_example_and_says_its_exit_codes(verb):
    parser = Command().create_parser("manage.py", "raft")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([verb.name, "--help"])
    assert ended.value.code == 0
    assert verb.help.endswith(".")
    assert "exit codes:" in verb.epilog
    assert {"run", "status", "bench", "check"} <= {found.name for found in find_verbs()}


# run


@pytest.fixture
def started(monkeypatch):
    """run_node does not run: it says that it is ready, and notes its settings."""
    started = []

    def run_node(settings, application, *, on_ready, on_waiting):
        started.append((settings, application))
        on_ready()
        return 0

    monkeypatch.setattr(run, "run_node", run_node)
    monkeypatch.setattr(run, "refuse_unapplied_migrations", lambda alias: None)
    return started


LOG_ONLY = {"NODE_ID": "a", "MEMBERS": MEMBERS, "STATE_MACHINE": "log"}


@override_settings(RAFTLOG=LOG_ONLY)
def test_run_says_who_it_is_and_where_it_listens(started):
    code, output = raft("run", "--bind", "0.0.0.0:9000")
    assert code == 0
    assert started[0][0].bind == ("0.0.0.0", 9000)
    assert "node a of cluster raftlog" in output
    assert "listening on 0.0.0.0:9000, reached at ws://127.0.0.1:1001" in output


@override_settings(RAFTLOG=LOG_ONLY)
def test_the_exit_code_of_the_node_is_that_of_run(monkeypatch, started):
    monkeypatch.setattr(run, "run_node", lambda *args, **options: 2)
    assert raft("run")[0] == 2


@override_settings(RAFTLOG=LOG_ONLY)
def test_what_keeps_the_node_from_starting_is_said_in_one_line(monkeypatch, started):
    def run_node(*args, **options):
        raise DirectoryInUse("the folder is used by process 17")

    monkeypatch.setattr(run, "run_node", run_node)
    with pytest.raises(CommandError, match="the folder is used by process 17"):
        raft("run")


@override_settings(RAFTLOG={"NODEID": "a"})
def test_run_refuses_wrong_settings_by_key(started):
    with pytest.raises(SystemCheckError, match="NODEID"):
        raft("run")
    assert started == []


@override_settings(RAFTLOG=LOG_ONLY)
def test_a_bind_that_cannot_be_understood_is_refused(started):
    with pytest.raises(CommandError, match="--bind x:y: the port must be"):
        raft("run", "--bind", "x:y")


@override_settings(ASGI_APPLICATION="raftlog.management.verbs.find_verbs")
def test_the_projects_own_application_is_served():
    assert run.site_application() is find_verbs


@pytest.mark.processes
def test_run_refuses_a_database_without_its_tables(tmp_path):
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.processes.stock_settings",
        "RAFTLOG_DATA_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "raft", "run"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "migrations are not applied to DATABASES['default']" in done.stderr
    assert "bank" in done.stderr


# status


@override_settings(RAFTLOG={"NODE_ID": "a", "MEMBERS": MEMBERS})
def test_status_asks_the_local_node_and_every_member_within_the_timeout(monkeypatch):
    asked = []

    def fetch_status(settings, target=None, timeout=2.0):
        asked.append((target, timeout))
        raise NodeUnavailable("down")

    monkeypatch.setattr(status, "fetch_status", fetch_status)
    code, output = raft("status", "--timeout", "0.5")
    assert code == 2
    assert sorted(asked, key=str) == sorted([(None, 0.5), *((address, 0.5) for address in MEMBERS.values())], key=str)
    assert "No member answers" in output
    code, output = raft("status", "--json")
    assert (code, json.loads(output)["exit_code"]) == (2, 2)


@override_settings(RAFTLOG={"NODE": "a"})
def test_status_names_wrong_settings():
    with pytest.raises(CommandError, match="NODE_ID"):
        raft("status")


# add


def test_nodes_to_add_come_in_pairs():
    assert add.pairs(["d", "ws://d:1", "e", "ws://e:1"]) == {"d": "ws://d:1", "e": "ws://e:1"}
    with pytest.raises(CommandError, match="e has no address"):
        add.pairs(["d", "ws://d:1", "e"])
    with pytest.raises(CommandError, match="named twice"):
        add.pairs(["d", "ws://d:1", "d", "ws://e:1"])


# check


@pytest.fixture
def settings(tmp_path):
    return conf.load_settings({"NODE_ID": "a", "MEMBERS": MEMBERS, "DATA_DIR": tmp_path / "raft"})


def test_a_folder_that_can_be_made_is_fine_and_a_file_in_its_place_is_not(settings, tmp_path):
    assert check.folder_row(settings)[1:] == ("ok", f"{tmp_path / 'raft'} will be made")
    (tmp_path / "raft").write_text("")
    assert check.folder_row(settings)[1] == "failed"


def test_a_port_in_use_by_another_process_is_named(settings, monkeypatch):
    def fetch_status(*args, **options):
        raise NodeUnavailable("no socket")

    monkeypatch.setattr(check, "fetch_status", fetch_status)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        taken = conf.load_settings({"ADDRESS": f"ws://127.0.0.1:{port}"})
        assert check.port_row(taken)[1] == "failed"
        monkeypatch.setattr(check, "fetch_status", lambda *args, **options: {})
        assert "this host's node is running" in check.port_row(taken)[2]


def test_peers_that_are_down_are_warnings_and_a_wrong_one_fails(settings):
    def ask(address):
        if address == MEMBERS["b"]:
            return {"node_id": "x", "role": "follower"}
        raise HandshakeRefused(4401, "wrong secret key")

    rows = {row[0]: row for row in check.peer_rows(settings, ask)}
    assert rows["peer b"][1] == "failed"
    assert "is node x" in rows["peer b"][2]
    assert rows["peer c"][1] == "warning"
    assert "wrong secret key" in rows["peer c"][2]
    assert "peer a" not in rows


@override_settings(RAFTLOG={"NODEID": "a"})
def test_check_stops_at_wrong_settings_and_fails():
    code, output = raft("check", "--json")
    assert code == 1
    found = json.loads(output)
    assert not found["ok"]
    assert "raftlog.E002" in [row["what"] for row in found["checks"]]


# members


def test_a_change_after_which_no_majority_could_be_reached_is_refused():
    reached = {"a": {"connected": True}, "b": {"connected": False}, "c": {"connected": True}}
    cluster = types.SimpleNamespace(leader_id="a", members=reached)
    servers = {node_id: Server(f"ws://{node_id}:1") for node_id in "abc"}
    three = Configuration("c" * 32, servers, ("a", "b", "c"))
    members.refuse_lost_quorum(cluster, three)
    with pytest.raises(CommandError, match="of the voters a, b then, b cannot be reached now"):
        members.refuse_lost_quorum(cluster, three.without("c"))
