"""An image is installed into the file that application connections have open (rule 17)."""

import os
import signal
import sqlite3
import threading
import warnings

import pytest
from django.db import connections, transaction

from raftlog.backends.exceptions import TransactionConflict
from raftlog.consensus.snapshot import LogBase
from raftlog.replication import images
from raftlog.replication.images import sqlite
from raftlog.replication.key_blocks import KeyBlocks
from raftlog.replication.tables import ensure_tables
from tests.backends.conftest import ALIAS


def image_of(database, path):
    return images.make_image(ALIAS, path, lambda index, term: LogBase(index=index, term=term))


@pytest.fixture
def replicated(make_database):
    """A database with raftlog's tables, a row, and the log's position at 7."""
    database = make_database()
    with database.connection.applying():
        ensure_tables(ALIAS)
        stand_at(database, 7)
    database.run("INSERT INTO parent (name, rank) VALUES ('first', 1)")
    return database


def stand_at(database, index, cluster_id="c" * 32):
    with database.connection.applying(), transaction.atomic(using=ALIAS):
        database.run(
            "UPDATE raftlog_appliedindex SET applied_index = %s, applied_term = 1, cluster_id = %s", index, cluster_id
        )
        database.run("UPDATE raftlog_positions SET applied = %s", index)


def names(database):
    return [name for (name,) in database.run("SELECT name FROM parent ORDER BY name")]


def read_install_write(database, image, expected):
    with transaction.atomic(using=ALIAS):
        assert names(database) == expected
        images.install_image(ALIAS, image)
        database.run("UPDATE parent SET rank = 5 WHERE name = 'first'")


def test_an_open_connection_reads_the_new_content_and_captures_under_the_new_schema(replicated, tmp_path):
    replicated.run("INSERT INTO parent (name, rank) VALUES ('in the image', 2)")
    image_of(replicated, tmp_path / "image")
    replicated.run("ALTER TABLE parent ADD COLUMN later text")
    replicated.run("UPDATE parent SET name = 'changed'  WHERE rank = 1")
    assert replicated.run("SELECT later FROM parent WHERE rank = 1") == [(None,)]
    changes = []
    replicated.log.observers[:] = [lambda index, body, verdict: changes.append(index)]

    images.install_image(ALIAS, tmp_path / "image")

    assert names(replicated) == ["first", "in the image"]
    replicated.run("UPDATE parent SET name = 'after' WHERE rank = 2")
    replicated.run("INSERT INTO child (parent_id, note) VALUES (1, 'x')")
    assert names(replicated) == ["after", "first"]
    assert len(changes) == 2
    marks = sqlite3.connect(tmp_path / "db.sqlite3").execute("SELECT name FROM raftlog_tables ORDER BY 1").fetchall()
    assert ("child",) in marks


def test_a_reader_keeps_its_snapshot_while_an_image_is_installed(replicated, tmp_path):
    image_of(replicated, tmp_path / "image")
    replicated.run("INSERT INTO parent (name, rank) VALUES ('second', 2)")
    with transaction.atomic(using=ALIAS):
        assert names(replicated) == ["first", "second"]
        images.install_image(ALIAS, tmp_path / "image")
        assert names(replicated) == ["first", "second"]
    assert names(replicated) == ["first"]


def test_a_transaction_that_read_before_an_image_of_an_older_state_conflicts_when_it_writes(replicated, tmp_path):
    image_of(replicated, tmp_path / "image")
    replicated.run("INSERT INTO parent (name, rank) VALUES ('second', 2)")
    with pytest.raises(TransactionConflict, match="another image of the database was installed"):
        read_install_write(replicated, tmp_path / "image", ["first", "second"])
    assert replicated.run("SELECT rank FROM parent") == [(1,)]


def test_a_transaction_that_read_before_an_image_of_another_cluster_conflicts(replicated, tmp_path):
    image_of(replicated, tmp_path / "image")
    stand_at(replicated, 7, "d" * 32)
    replicated.connection.close()
    with pytest.raises(TransactionConflict, match="another image of the database was installed"):
        read_install_write(replicated, tmp_path / "image", ["first"])


def test_an_image_waits_for_the_transaction_that_has_the_hosts_turn(replicated, tmp_path):
    image_of(replicated, tmp_path / "image")
    with transaction.atomic(using=ALIAS):
        replicated.run("INSERT INTO parent (name, rank) VALUES ('second', 2)")
        installing = threading.Thread(target=images.install_image, args=(ALIAS, tmp_path / "image"))
        installing.start()
        assert names(replicated) == ["first", "second"]
    installing.join(60)
    assert not installing.is_alive()
    assert names(replicated) == ["first"]


def test_blocks_of_keys_are_void_once_the_database_is_another_clusters(replicated, tmp_path):
    image_of(replicated, tmp_path / "image")
    stand_at(replicated, 7, "d" * 32)
    blocks = KeyBlocks()
    seen = []

    def connected(cluster_id):
        if seen and seen[-1] != cluster_id:
            blocks.drop_all()
        seen.append(cluster_id)

    replicated.connection.close()
    replicated.log.connected = connected
    control = replicated.control
    blocks.add("parent", 100, 64, 0)
    images.install_image(ALIAS, tmp_path / "image")
    control.notice_database()
    control.notice_database()
    assert seen == ["d" * 32, "c" * 32]
    assert blocks.take("parent", 1, 0) is None


def test_an_image_comes_into_a_file_with_pages_of_another_size_and_keeps_its_rowids(replicated, tmp_path):
    replicated.run("INSERT INTO plain WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) "
                   "SELECT i, 'row ' || i FROM n")  # fmt: skip
    replicated.run("DELETE FROM plain WHERE a % 3 = 1")
    expected = replicated.run("SELECT rowid, a, b FROM plain ORDER BY 1")
    image_of(replicated, tmp_path / "image")
    path = tmp_path / "other.sqlite3"
    other = sqlite3.connect(path)
    other.executescript("PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
    settings = connections[ALIAS].settings_dict
    before, settings["NAME"] = settings["NAME"], str(path)
    try:
        images.install_image(ALIAS, tmp_path / "image")
    finally:
        settings["NAME"] = before
    assert other.execute("PRAGMA page_size").fetchone() == (1024,)
    assert other.execute("SELECT rowid, a, b FROM plain ORDER BY 1").fetchall() == expected
    assert other.execute("SELECT count(*) FROM sqlite_master WHERE name = 't'").fetchone() == (0,)
    other.close()
    assert not (tmp_path / "image.pages").exists()


def test_a_process_killed_at_any_step_of_an_install_leaves_the_old_or_the_new_database(
    replicated, tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite, "STEP_PAGES", 8)
    replicated.run(
        "INSERT INTO plain WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 400) "
        "SELECT i, hex(randomblob(80)) FROM n"
    )
    header = image_of(replicated, tmp_path / "image")
    replicated.run("DELETE FROM plain")
    replicated.run("INSERT INTO plain VALUES ('old', 0)")
    stand_at(replicated, 9)
    connections.close_all()  # a child must inherit none

    # Progress is told header.chunks times by the check of the file, then for each step.
    steps = -(-header.database_bytes // (4096 * 8))
    assert steps > 4
    left = {kill_in_child(tmp_path / "image", header.chunks + step, tmp_path) for step in range(1, steps + 1)}
    assert left == {(9, 1), (header.index, 400)}


def kill_in_child(image, calls, folder):
    """Install in a process that kills itself when progress was told so often; (index, rows) of what it leaves."""
    with warnings.catch_warnings():  # of threads that other tests have left: Python 3.12 warns
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(120)  # rather fail than hang
        told = iter(range(1, calls + 1))

        def on_progress(done, total):
            if next(told) == calls:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            images.install_image(ALIAS, image, on_progress=on_progress)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    found = sqlite3.connect(folder / "db.sqlite3")
    try:
        assert found.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (index,) = found.execute("SELECT applied_index FROM raftlog_appliedindex").fetchone()
        (rows,) = found.execute("SELECT count(*) FROM plain").fetchone()
        return index, rows
    finally:
        found.close()


def test_an_image_is_made_while_others_write(replicated, tmp_path):
    """Its transaction is of the moment it began, whatever is committed before it ends."""
    told = []

    def write_once(done, total):
        if not told:
            replicated.run("INSERT INTO parent (name, rank) VALUES ('meanwhile', 3)")
        told.append((done, total))

    made = images.make_image(
        ALIAS, tmp_path / "image", lambda index, term: LogBase(index=index, term=term), on_progress=write_once
    )
    assert made.rows["parent"] == 1
    assert names(replicated) == ["first", "meanwhile"]
    assert told[-1][0] == told[-1][1]
