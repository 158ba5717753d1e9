"""RAFTLOG is read with defaults, and every mistake in it is named with its key and its fix."""

import stat
from pathlib import Path

import pytest
from django.test import override_settings

from raftlog import conf

MEMBERS = {"a": "ws://10.0.0.1:8000", "b": "ws://10.0.0.2:8000", "c": "ws://[::1]:8000"}


def test_without_settings_one_node_is_a_cluster_by_itself(tmp_path):
    with override_settings(BASE_DIR=tmp_path):
        settings = conf.load_settings()
    assert settings.node_id == "node1"
    assert settings.members == {"node1": "ws://127.0.0.1:8000"}
    assert settings.bind == ("127.0.0.1", 8000)
    assert settings.data_dir == tmp_path / "raft"
    assert settings.database == "default"


def test_a_member_takes_its_address_and_bind_from_the_members():
    settings = conf.load_settings({"NODE_ID": "c", "MEMBERS": MEMBERS})
    assert settings.address == "ws://[::1]:8000"
    assert settings.bind == ("::1", 8000)


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("0.0.0.0:9000", ("0.0.0.0", 9000)),
        (":9000", ("0.0.0.0", 9000)),
        ("9000", ("0.0.0.0", 9000)),
        ("[::]:9000", ("::", 9000)),
        (("h", 9000), ("h", 9000)),
    ],
)
def test_bind_says_where_to_listen(bind, expected):
    assert conf.load_settings({"BIND": bind}).bind == expected


@pytest.mark.parametrize(
    ("raw", "code", "key", "words"),
    [
        ([], "E001", "", ["dictionary", "list"]),
        ({"NODEID": "a"}, "E002", "NODEID", ["'NODE_ID'"]),
        ({"QUITE_OTHER_THING": 1}, "E002", "QUITE_OTHER_THING", ["Known keys"]),
        ({"ELECTION_TIMEOUT": "1"}, "E003", "ELECTION_TIMEOUT", ["'1'", "0.5"]),
        ({"SEGMENT_BYTES": True}, "E003", "SEGMENT_BYTES", ["True"]),
        ({"CLUSTER": ""}, "E003", "CLUSTER", ["empty"]),
        ({"MEMBERS": {}}, "E003", "MEMBERS", ["empty"]),
        ({"MEMBERS": {"node1": 5}}, "E003", "MEMBERS", ["5"]),
        ({"ELECTION_TIMEOUT": 0.001}, "E004", "ELECTION_TIMEOUT", ["0.001", "0.05", "seconds"]),
        ({"MAX_COMMAND_BYTES": 1}, "E004", "MAX_COMMAND_BYTES", ["1024", "bytes"]),
        ({"MAX_UNCOMMITTED_BYTES": 2 << 20}, "E004", "MAX_UNCOMMITTED_BYTES", ["MAX_TRANSACTION_BYTES"]),
        ({"CLUSTER": "my shop"}, "E004", "CLUSTER", ["'my shop'", "letters"]),
        ({"STATE_MACHINE": "none"}, "E004", "STATE_MACHINE", ["'none'"]),
        ({"MEMBERS": MEMBERS}, "E005", "NODE_ID", ["'node1'", "a, b, c"]),
        ({"MEMBERS": MEMBERS, "ADDRESS": "ws://x"}, "E006", "ADDRESS", ["port is missing"]),
        ({"ADDRESS": "http://x:1"}, "E006", "ADDRESS", ["http", "ws://host:port"]),
        ({"ADDRESS": "ws://x"}, "E006", "ADDRESS", ["port is missing"]),
        ({"ADDRESS": "ws://x:99999"}, "E006", "ADDRESS", ["65535"]),
        ({"ADDRESS": "ws://x:1/path"}, "E006", "ADDRESS", ["follow the port"]),
        ({"BIND": "host:http"}, "E006", "BIND", ["number"]),
        ({"NODE_ID": "a", "MEMBERS": MEMBERS, "ADDRESS": "ws://x:1"}, "E007", "ADDRESS", ["ws://10.0.0.1:8000"]),
        ({"NODE_ID": "a", "MEMBERS": {"a": "ws://x:1", "b": "ws://x:1"}}, "E007", "MEMBERS", ["ws://x:1"]),
        ({"SECRET_KEYS": []}, "E008", "SECRET_KEYS", ["empty"]),
        ({"SECRET_KEYS": ["short"]}, "E008", "SECRET_KEYS", ["5 bytes", "16"]),
        ({"SECRET_KEYS": [1]}, "E008", "SECRET_KEYS", ["int"]),
        ({"HEARTBEAT_INTERVAL": 0.2}, "E009", "HEARTBEAT_INTERVAL", ["0.1667"]),
        ({"ADDRESS": "wss://x:1"}, "E010", "TLS_KEY", ["wss://"]),
        ({"TLS_CA": "no/such/file"}, "E010", "TLS_CA", ["no file"]),
        (
            {"NODE_ID": "a", "MEMBERS": {"a": "ws://x:1", "b": "wss://x:2"}},
            "E010",
            "MEMBERS",
            ["mixes"],
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_and_its_fix(raw, code, key, words):
    problems = conf.find_problems(raw)
    matching = [problem for problem in problems if (problem.code, problem.key) == (code, key)]
    assert matching, problems
    assert all(word in str(matching[0]) for word in words), str(matching[0])


def test_all_mistakes_are_found_at_once():
    with pytest.raises(conf.SettingsError) as raised:
        conf.load_settings({"NODE": "a", "ELECTION_TIMEOUT": None, "ADDRESS": "x"})
    assert [problem.code for problem in raised.value.problems] == ["E002", "E003", "E006"]
    assert "raftlog.E002" in str(raised.value)


def test_the_default_heartbeat_follows_a_short_election_timeout():
    assert conf.load_settings({"ELECTION_TIMEOUT": 0.2}).heartbeat_interval == pytest.approx(0.04)


def test_derived_keys_differ_by_cluster_and_include_the_fallbacks():
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        keys = conf.load_settings({"CLUSTER": "one"}).secret_keys
        assert len(keys) == 2
        assert keys != conf.load_settings({"CLUSTER": "two"}).secret_keys
    with override_settings(SECRET_KEY="old"):
        assert conf.load_settings({"CLUSTER": "one"}).secret_keys == keys[1:]


def test_secret_keys_do_not_show_in_a_repr():
    assert "0123456789abcdef" not in repr(conf.load_settings({"SECRET_KEYS": ["0123456789abcdef"]}))


def test_a_socket_path_that_is_too_long_moves_to_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    short = conf.load_settings({"DATA_DIR": "/srv/raft"})
    assert short.socket_path == Path("/srv/raft/node.sock")
    long = conf.load_settings({"DATA_DIR": "/srv/" + "x" * 100})
    assert long.socket_path.parent.parent == tmp_path
    assert stat.S_IMODE(long.socket_path.parent.stat().st_mode) == 0o700
    assert long.socket_path == long.socket_path


def test_a_socket_folder_that_others_may_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = conf.load_settings({"DATA_DIR": "/srv/" + "x" * 100})
    settings.socket_path.parent.chmod(0o777)
    with pytest.raises(conf.SettingsError, match="0700"):
        settings.socket_path  # noqa: B018


def test_backups_need_a_storage_that_there_is():
    for key in ("BACKUP_INTERVAL", "ARCHIVE_INTERVAL"):
        assert [problem.key for problem in conf.find_problems({key: 60})] == [key]
        assert conf.find_problems({key: 60, "BACKUP_STORAGE": "default"}) == []


def test_reads_are_configured_with_checked_values(monkeypatch):
    raw = {"READ_LEASE": True, "READ_YOUR_WRITES_TIMEOUT": 0, "READ_YOUR_WRITES_LATE": "serve"}
    settings = conf.load_settings(raw)
    assert (settings.read_lease, settings.read_your_writes_timeout) == (True, 0)
    assert conf.load_settings({}).read_lease is False
    for raw in ({"READ_LEASE": 1}, {"READ_YOUR_WRITES_TIMEOUT": -1}, {"READ_YOUR_WRITES_LATE": "wait"}):
        (problem,) = conf.find_problems(raw)
        assert problem.key in raw
    monkeypatch.setattr("sys.platform", "darwin")
    (problem,) = conf.find_problems({"READ_LEASE": True})
    assert "only Linux" in problem.message
