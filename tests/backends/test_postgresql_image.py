"""Images of PostgreSQL: what pg_dump makes of one snapshot, put back in one transaction under open connections."""

import threading

import pytest
from django.db import connections, transaction

from raftlog.backends.exceptions import TransactionConflict
from raftlog.backends.log import log_for
from raftlog.consensus.snapshot import LogBase
from raftlog.exceptions import ImageDamaged, ImageError
from raftlog.replication import images
from raftlog.replication.images import postgresql as module
from raftlog.replication.tables import ensure_tables
from tests.backends import postgresql

ALIAS = "replicated"
CLUSTER = "c" * 32


def image_of(path, **keywords):
    return images.make_image(ALIAS, path, lambda index, term: LogBase(index=index, term=term), **keywords)


def stand_at(database, index, cluster_id=CLUSTER):
    with database.connection.applying():
        ensure_tables(ALIAS)
    with postgresql.connect(database.connection.settings_dict) as raw:
        raw.execute("UPDATE raftlog_appliedindex SET applied_index = %s, applied_term = 1, cluster_id = %s",
                    (index, cluster_id))  # fmt: skip


@pytest.fixture
def database(django_db_blocker):
    with django_db_blocker.unblock():
        made = postgresql.Database()
        try:
            made.run("INSERT INTO parent (name, rank) VALUES ('first', 1)")
            made.run("INSERT INTO plain VALUES (%s, %s)", "tab\t, newline\n, backslash \\.", "[1, 2]")
            yield made
        finally:
            made.close()


def names(database):
    return [name for (name,) in database.run("SELECT name FROM parent ORDER BY name")]


def test_an_image_takes_rows_schema_marks_and_keys_back_under_an_open_connection(database, tmp_path):
    stand_at(database, 7)
    header = image_of(tmp_path / "image")
    assert (header.vendor, header.index, header.rows["parent"]) == ("postgresql", 7, 1)
    assert images.verify_image(tmp_path / "image") == header
    with postgresql.connect(database.connection.settings_dict) as raw:
        before = postgresql.contents(raw)

    stand_at(database, 9)
    observers = log_for(ALIAS).observers
    observers.clear()  # the replica does not follow through the image
    database.run("ALTER TABLE parent ADD COLUMN later text")
    database.run("CREATE TABLE extra (id integer PRIMARY KEY)")
    database.run("INSERT INTO parent (name, rank) VALUES ('second', 2)")
    told = []
    images.install_image(ALIAS, tmp_path / "image", on_progress=lambda done, total: told.append((done, total)))

    assert told[-1][0] == told[-1][1]
    with postgresql.connect(database.connection.settings_dict) as raw:
        assert postgresql.contents(raw) == before
    entries = []
    observers.append(lambda index, body, verdict: entries.append(index))
    database.run("INSERT INTO parent (name, rank) VALUES ('after', 3)")
    database.run("UPDATE plain SET a = 'changed'")
    assert names(database) == ["after", "first"]
    assert len(entries) == 2
    ((rows,),) = database.run("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'raftlog\\_%'")
    assert rows == 0


def test_a_transaction_in_the_way_of_an_image_is_cancelled_and_told_of_a_conflict(database, tmp_path):
    stand_at(database, 7)
    image_of(tmp_path / "image")
    installing = threading.Thread(target=installed, args=(tmp_path / "image",))

    def read_and_wait():
        with transaction.atomic(using=ALIAS):
            assert names(database) == ["first"]
            installing.start()
            installing.join(60)
            database.run("UPDATE parent SET rank = 2")

    with pytest.raises(Exception) as caught:
        read_and_wait()
    assert isinstance(caught.value, TransactionConflict) or "terminat" in str(caught.value)
    assert not installing.is_alive()
    assert names(database) == ["first"]


def installed(path):
    try:
        images.install_image(ALIAS, path)
    finally:
        connections[ALIAS].close()


def test_a_failed_install_leaves_the_database_as_it_was(database, tmp_path, monkeypatch):
    stand_at(database, 7)
    image_of(tmp_path / "image")
    stand_at(database, 9)
    database.run("UPDATE parent SET name = 'newer'")

    def fails(self, section):
        raise OSError("killed here")

    monkeypatch.setattr(module._Archive, "run_section", fails)
    with pytest.raises(OSError, match="killed here"):
        images.install_image(ALIAS, tmp_path / "image")
    assert names(database) == ["newer"]
    content = bytearray((tmp_path / "image").read_bytes())
    content[200] ^= 1
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(ImageDamaged, match="chunk 1 of"):
        images.install_image(ALIAS, tmp_path / "image")


def test_a_missing_program_is_named_with_the_package_that_has_it(database, tmp_path, monkeypatch):
    stand_at(database, 7)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ImageError, match=r"pg_dump is not installed.*postgresql-client"):
        image_of(tmp_path / "image")
    assert list(tmp_path.iterdir()) == []
    assert images.make_durable(ALIAS) == 7
