"""`raft repair --database`: what is put aside, where the rows will come from, and when nothing is touched."""

import io
import sqlite3

import pytest
from django.core.management import CommandError
from django.db import connections

from raftlog import conf
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import NO_OP_PAYLOAD, EntryBatch, Run
from raftlog.exceptions import NodeUnavailable
from raftlog.management import repair_database as module
from raftlog.management.output import Output
from raftlog.management.repair_database import repair_database
from raftlog.storage import open_storage

MEMBERS = {name: f"ws://127.0.0.1:{1001 + number}" for number, name in enumerate("abc")}
HEALTHY = {"healthy": True, "problems": []}


def entries(first, count):
    configuration = encode_configuration(Configuration("c" * 32, {n: Server("ws://x") for n in "abc"}, tuple("abc")))
    payloads = [configuration if index == 1 else NO_OP_PAYLOAD for index in range(first, first + count)]
    return EntryBatch(first, [Run(count, 1, 5)], payloads)


@pytest.fixture
def settings(tmp_path):
    """Of node a, whose log holds entries 1-30."""
    made = conf.load_settings(
        {"NODE_ID": "a", "MEMBERS": MEMBERS, "DATA_DIR": str(tmp_path / "raft"), "SECRET_KEYS": ["k" * 32]}
    )
    storage = open_storage(made.data_dir, node_id="a", cluster=made.cluster, new_incarnation="1" * 32)
    storage.log.append(entries(1, 30))
    storage.log.sync()
    storage.close()
    return made


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A database file with what it holds still in its write-ahead log, as after a kill."""
    path = tmp_path / "db.sqlite3"
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", str(path))
    monkeypatch.setattr(type(connections["default"]), "close", lambda self: None)  # the test's own is in memory
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("CREATE TABLE t (v)")
    writer.execute("INSERT INTO t VALUES (77)")
    writer.commit()
    yield path
    writer.close()


@pytest.fixture
def peers(monkeypatch):
    """address -> status, or what asking raises."""
    answers = dict.fromkeys(MEMBERS.values(), HEALTHY)

    def fetch_status(settings, target):
        if isinstance(answers[target], Exception):
            raise answers[target]
        return answers[target]

    monkeypatch.setattr(module, "fetch_status", fetch_status)
    return answers


def repair(settings, *, from_peers=False):
    return repair_database(settings, Output(io.StringIO()), from_peers=from_peers, noinput=True)


def reopened(settings):
    return open_storage(settings.data_dir, node_id="a", cluster=settings.cluster)


def test_the_database_is_kept_with_its_write_ahead_log_and_comes_from_a_whole_log(settings, database):
    done = repair(settings)
    assert done["source"] == "this node's log, entries 1-30"
    assert not database.exists()
    kept = done["kept"].removeprefix("the old database is ")
    copy = sqlite3.connect(kept)
    assert copy.execute("SELECT v FROM t").fetchall() == [(77,)]
    copy.close()


def test_with_from_peers_the_log_gives_up_what_the_database_had_applied(settings, database, peers, monkeypatch):
    """So the node needs an image of that entry or a later one, as after any compaction."""
    monkeypatch.setattr(module, "applied_index", lambda alias: 20)
    assert repair(settings, from_peers=True)["source"] == "an image of b or c"
    storage = reopened(settings)
    assert (storage.log.base.index, storage.log.first_index, storage.log.last_index) == (20, 21, 30)
    assert storage.log.base.configuration.voters == ("a", "b", "c")
    storage.close()
    assert not database.exists()


def test_a_compacted_log_needs_a_healthy_peer(settings, database, peers, monkeypatch):
    monkeypatch.setattr(module, "applied_index", lambda alias: 20)
    repair(settings, from_peers=True)
    database.touch()
    peers[MEMBERS["b"]] = {"healthy": False, "problems": ["its database has diverged"]}
    assert repair(settings)["source"] == "an image of c"
    peers[MEMBERS["c"]] = NodeUnavailable("it is down")
    database.touch()
    with pytest.raises(CommandError, match="b: its database has diverged; c: it is down"):
        repair(settings)
    assert database.exists()


def test_nothing_is_touched_while_the_node_runs_or_its_log_is_damaged(settings, database):
    storage = reopened(settings)
    with pytest.raises(CommandError, match="Stop this host's node first"):
        repair(settings)
    storage.close()
    (segment,) = settings.data_dir.glob("log-*.segment")
    data = bytearray(segment.read_bytes())
    at = data.index(b'"c' if b'"c' in data else b"ws://x")
    data[at] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CommandError, match="log"):
        repair(settings)
    assert database.exists()


def test_somebody_must_say_yes(settings, database, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: "no")
    with pytest.raises(CommandError, match="nothing was changed"):
        repair_database(settings, Output(io.StringIO()), from_peers=False, noinput=False)
    assert database.exists()
