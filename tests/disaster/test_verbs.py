"""The verbs of backup, restore, recover, init and leave: what they refuse, and their exit codes."""

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import NO_OP_PAYLOAD, EntryBatch, Run
from raftlog.management.raft import backup, init, leave, recover, restore
from raftlog.storage import open_storage


def raft(*arguments):
    """(exit code, what was printed)"""
    output = io.StringIO()
    try:
        call_command("raft", *arguments, stdout=output)
    except SystemExit as exit_:
        return exit_.code, output.getvalue()
    return 0, output.getvalue()


@pytest.fixture
def settings_of(tmp_path):
    def settings_of(**keys):
        return override_settings(RAFTLOG={"NODE_ID": "a", "DATA_DIR": tmp_path / "raft", **keys})

    return settings_of


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["backup"], "say where"),
        (["backup", "x", "--storage", "y"], "say where"),
        (["backup", "x", "--keep", "3"], "--keep takes"),
        (["backup", "--storage", "y", "--keep", "0"], "--keep takes"),
        (["backup", "x", "--list"], "--list takes --storage"),
        (["backup", "--storage", "none-such"], "STORAGES has no 'none-such'"),
        (["backup", "--verify", "/none/such"], "/none/such"),
        (["restore"], "say from where"),
        (["restore", "x", "--to-index", "7"], "take --storage"),
        (["restore", "--storage", "none-such"], "STORAGES has no 'none-such'"),
        (["restore", "--storage", "default", "--to-time", "noon"], "--to-time noon"),
        (["recover"], "is no folder of a node"),
        (["recover", "--rejoin"], "Nobody answers here: say --noinput"),
        (["recover", "--rejoin", "--json"], "With --json nobody is asked"),
        (["init"], "say --adopt"),
        (["leave"], "Nobody answers here: say --noinput"),
    ],
)
def test_what_is_refused(settings_of, monkeypatch, arguments, text):
    def nobody(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with settings_of(), pytest.raises(CommandError, match=text):
        raft(*arguments)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(recover, ["recover"]), (restore, ["restore", "x"]), (init, ["init", "--adopt"]), (leave, ["leave"])],
)
def test_beside_a_running_node_nothing_is_done(settings_of, monkeypatch, module, arguments):
    monkeypatch.setattr(module, "is_listening", lambda settings: True)
    with settings_of(), pytest.raises(CommandError, match=r"the node of this host \(a\) is running: stop it first"):
        raft(*arguments)


def test_backups_by_cron_are_made_by_the_leader_alone(settings_of, monkeypatch):
    monkeypatch.setattr(backup, "fetch_status", lambda settings: {"role": "follower"})
    with settings_of():
        code, output = raft("backup", "--storage", "default", "--if-leader", "--json")
    assert code == backup.NOT_LEADER == 3
    assert json.loads(output) == {"done": False, "node_id": "a"}


def folder_of(node_id, path, last_index):
    """Of a member of a cluster of five, which has so many entries."""
    members = {name: Server(f"ws://127.0.0.1:{number}", name * 32) for number, name in enumerate("abcde", 1)}
    payload = encode_configuration(Configuration("c" * 32, members, tuple(members)))
    storage = open_storage(path, node_id=node_id, cluster="raftlog", new_incarnation=node_id * 32)
    storage.log.append(EntryBatch(1, [Run(last_index, 2, 1_000)], [payload] + [NO_OP_PAYLOAD] * (last_index - 1)))
    storage.log.sync()
    storage.set_cluster_id("c" * 32)
    storage.close()


def test_the_survivor_with_the_most_is_recovered_by_a_report_of_the_other(tmp_path):
    def settings(node_id):
        address = f"ws://127.0.0.1:{'abcde'.index(node_id) + 1}"
        return override_settings(RAFTLOG={"NODE_ID": node_id, "ADDRESS": address, "DATA_DIR": tmp_path / node_id})

    folder_of("a", tmp_path / "a", 9)
    folder_of("b", tmp_path / "b", 7)
    for name in "ab":
        with settings(name):
            (tmp_path / f"{name}.json").write_text(raft("recover", "--report")[1])
    with settings("b"), pytest.raises(CommandError, match=r"a has more than b .* run this on a"):
        raft("recover", "--survivor", str(tmp_path / "a.json"))
    with settings("a"):
        _, shown = raft("recover", "--survivor", str(tmp_path / "b.json"))
        assert "on b: manage.py raft recover --rejoin; manage.py raft run" in shown
        code, output = raft("recover", "--survivor", str(tmp_path / "b.json"), "--execute", "--noinput", "--json")
        answer = json.loads(output)
        assert (code, answer["done"], answer["lost"], answer["may_lose"]) == (0, True, ["c", "d", "e"], True)
        with pytest.raises(CommandError, match="b is of cluster_id"):
            raft("recover", "--survivor", str(tmp_path / "b.json"))
