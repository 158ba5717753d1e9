"""The verbs of backup, restore, recover, init and leave: what they refuse, and their exit codes."""

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from raftlog.management.raft import backup, init, leave, recover, restore


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
