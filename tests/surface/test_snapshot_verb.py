"""`raft snapshot`: makes an image of the database, shows what one holds, names what is damaged."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.snapshot import LogBase
from raftlog.management.raft import snapshot
from raftlog.replication.apply import DatabaseStateMachine
from tests.replication.conftest import sqlite_database
from tests.replication.log import CLUSTER, START, apply_all, opened
from tests.replication.warehouse.commands import add_item


def raft(*arguments):
    output = io.StringIO()
    call_command("raft", *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def applied(tmp_path, django_db_blocker, monkeypatch):
    """A database at entry 4; its node describes it."""
    configuration = Configuration(CLUSTER, {"a": Server("ws://a")}, ("a",))

    def describe(index, term):
        return LogBase(index=index, term=term, log_time=START, configuration_index=1, configuration=configuration)

    monkeypatch.setattr(snapshot, "describer", lambda settings: describe)
    with django_db_blocker.unblock(), sqlite_database(tmp_path):
        machine = DatabaseStateMachine("default")
        writer = opened()
        writer.add(add_item, name="screw")
        apply_all(machine, writer.payloads)
        machine.close()
        yield


def test_it_makes_an_image_and_shows_it(applied, tmp_path):
    path = tmp_path / "image"
    made = raft("snapshot", str(path))
    assert made.startswith(f"{path}: entry 4 of term 1; ")
    assert "rows/s)" in made
    shown = raft("snapshot", "--show", str(path))
    for words in (
        "raftlog (cccc",
        "4 of term 1, log time 2023-11-14 22:13:20 UTC",
        "a (as of entry 1)",
        "not compared",
    ):
        assert words in shown
    assert "warehouse_item" in shown
    assert "all compared" in raft("snapshot", "--show", "--verify", str(path))
    answer = json.loads(raft("snapshot", "--show", "--json", str(path)))
    assert (answer["index"], answer["rows"]["warehouse_item"], answer["verified"]) == (4, 1, False)
    with pytest.raises(CommandError, match="exists already"):
        raft("snapshot", str(path))


def test_it_says_what_it_cost_to_scripts(applied, tmp_path):
    answer = json.loads(raft("snapshot", "--json", str(tmp_path / "image")))
    assert answer["rows_per_second"] > 0
    assert answer["bytes"] == (tmp_path / "image").stat().st_size


def test_a_damaged_image_is_refused_by_its_chunk(applied, tmp_path):
    path = tmp_path / "image"
    raft("snapshot", str(path))
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    raft("snapshot", "--show", str(path))
    with pytest.raises(CommandError, match="chunk 1 of"):
        raft("snapshot", "--show", "--verify", str(path))
    with pytest.raises(CommandError, match="is no image of raftlog"):
        raft("snapshot", "--show", __file__)
    with pytest.raises(CommandError, match="--verify goes with --show"):
        raft("snapshot", "--verify", str(path))
