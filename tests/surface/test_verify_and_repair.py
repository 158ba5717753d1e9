"""`raft verify` and `raft repair`: what they find, what they do, and how they end."""

from __future__ import annotations

import io
import json
import os
import sqlite3

import pytest
from django.core.management import CommandError
from django.db import connection
from django.test import override_settings

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.state import HardState
from raftlog.management.database_check import check_database
from raftlog.management.output import Output
from tests.storage.helpers import batch, opened
from tests.surface.test_raft_command import MEMBERS, raft


@pytest.fixture
def folder(tmp_path, settings):
    """The folder of node a, of three; nobody owns it."""
    directory = tmp_path / "raft"
    storage = opened(directory, node_id="a", segment_bytes=1 << 14)
    for index in range(1, 201, 10):
        storage.log.append(batch(index, 10, size=300, term=3))
    storage.log.sync()
    storage.hard_state.save(HardState(3, "b"))
    storage.close()
    settings.RAFTLOG = {"NODE_ID": "a", "MEMBERS": MEMBERS, "DATA_DIR": str(directory)}
    return directory


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def names(folder):
    return sorted(path.name for path in folder.glob("*.segment"))


def test_verify_says_that_all_is_whole(folder):
    code, output = raft("verify")
    assert code == 0
    assert "200 entries" in output
    assert "all whole" in output


def test_verify_names_file_offset_and_entries(folder):
    flip(folder / names(folder)[1], 512 + 90)
    code, output = raft("verify")
    assert code == 1
    assert names(folder)[1] in output
    assert "raft repair" in output
    code, output = raft("verify", "--json")
    report = json.loads(output)
    assert (code, report["ok"]) == (1, False)
    (finding,) = report["findings"]
    assert (finding["path"], finding["offset"]) == (str(folder / names(folder)[1]), 512)


def test_verify_works_beside_the_owner_and_on_a_copy(folder, tmp_path):
    storage = opened(folder, node_id="a")
    assert raft("verify")[0] == 0
    storage.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    flip(copy / "hard_state", 600)
    assert raft("verify", "--data-dir", os.fspath(copy))[0] == 1
    assert raft("verify")[0] == 0


def test_verify_of_no_log_has_an_exit_code_of_its_own(folder, tmp_path):
    assert raft("verify", "--data-dir", str(tmp_path / "none"))[0] == 2
    (tmp_path / "empty").mkdir()
    assert raft("verify", "--data-dir", str(tmp_path / "empty"))[0] == 2


def test_repair_first_only_shows(folder):
    flip(folder / names(folder)[1], 512 + 90)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    code, output = raft("repair", "--timeout", "0.1")
    assert code == 1
    lost_from = int(names(folder)[1][15:35])
    assert f"entries {lost_from}-200" in output
    assert "No leader answers now" in output
    assert "--execute" in output
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"} == before


def test_repair_cuts_and_keeps_what_was_damaged(folder):
    damaged_name = names(folder)[1]
    lost_from = int(damaged_name[15:35])
    flip(folder / damaged_name, 512 + 90)
    damaged = (folder / damaged_name).read_bytes()
    code, output = raft("repair", "--execute", "--noinput", "--json")
    report = json.loads(output)
    assert (code, report["done"], report["cut_from"], report["promised_index"]) == (0, True, lost_from, 200)
    with open(os.path.join(report["aside"], damaged_name), "rb") as file:
        assert file.read() == damaged
    storage = opened(folder, node_id="a")
    assert storage.log.last_index == lost_from - 1
    assert storage.recovery_id
    storage.close()
    assert raft("verify")[0] == 0
    code, output = raft("repair")
    assert code == 0
    assert "nothing is damaged" in output
    assert "start it, and it fetches what it lost" in output


def test_repair_of_a_log_that_is_gone(folder):
    for name in names(folder):
        (folder / name).unlink()
    code, output = raft("repair", "--timeout", "0.1")
    assert code == 1
    assert "Lost here: the whole log, from entry 1 on" in output
    assert raft("repair", "--execute", "--noinput")[0] == 0
    storage = opened(folder, node_id="a")
    assert (storage.log.last_index, bool(storage.recovery_id)) == (0, True)
    storage.close()


def test_repair_of_term_and_vote(folder):
    flip(folder / "hard_state", 20)
    code, output = raft("repair", "--timeout", "0.1")
    assert code == 1
    assert "perhaps a vote" in output
    assert raft("repair", "--execute", "--noinput")[0] == 0
    storage = opened(folder, node_id="a")
    assert storage.hard_state.load().current_term == 3
    assert storage.log.last_index == 200
    storage.close()


def test_repair_asks_first(folder, monkeypatch):
    flip(folder / "hard_state", 20)
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    with pytest.raises(CommandError, match="nothing was changed"):
        raft("repair", "--execute")
    assert raft("verify")[0] == 1


def test_repair_says_what_it_cannot_mend(folder, settings):
    flip(folder / "metadata", 60)
    code, output = raft("repair", "--execute", "--noinput")
    assert code == 2
    assert "raft replace" in output
    flip(folder / "metadata", 60)
    flip(folder / names(folder)[0], 600)
    with override_settings(RAFTLOG={**settings.RAFTLOG, "MEMBERS": {"a": MEMBERS["a"]}}):
        code, output = raft("repair", "--execute", "--noinput")
    assert code == 2
    assert "No other server has what is lost" in output
    assert raft("verify")[0] == 1


def test_repair_goes_by_the_members_that_the_log_names(tmp_path, settings):
    """MEMBERS has the first ones; a cluster may have begun with one."""
    directory = tmp_path / "raft"
    storage = opened(directory, node_id="a")
    servers = {node_id: Server(address, node_id * 32) for node_id, address in MEMBERS.items()}
    payload = encode_configuration(Configuration("c" * 32, servers, tuple(servers)))
    storage.log.append(EntryBatch(1, [Run(1, 1, 0)], [payload]))
    storage.log.append(batch(2, 5))
    storage.log.sync()
    storage.close()
    settings.RAFTLOG = {"NODE_ID": "a", "MEMBERS": {"a": MEMBERS["a"]}, "DATA_DIR": str(directory)}
    flip(directory / "hard_state", 20)
    assert raft("repair", "--timeout", "0.1")[0] == 1


def test_repair_refuses_a_folder_in_use(folder):
    storage = opened(folder, node_id="a")
    with pytest.raises(CommandError, match="Stop it first"):
        raft("repair")
    storage.close()


def test_database_check_finds_a_broken_reference(tmp_path, monkeypatch):
    path = tmp_path / "db.sqlite3"
    plain = sqlite3.connect(path)
    plain.executescript(
        "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY, a_id REFERENCES a (id));"
        "INSERT INTO b VALUES (1, 1)"
    )
    plain.commit()
    plain.close()
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))
    checked = check_database("default", Output(io.StringIO()))
    assert checked.problems == ["foreign_key_check: row 1 of b has no row of a that it refers to"]
