"""Images of the database: made while it is in use, checked chunk by chunk, installed into the file that is open."""

import io
import sqlite3
import tarfile
from pathlib import Path

import pytest
from django.db import connection

from raftlog.backends.log import InlineLog, use_log
from raftlog.consensus.snapshot import LogBase
from raftlog.exceptions import ImageDamaged, ImageError
from raftlog.replication import images
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.images import sqlite
from raftlog.replication.images.hooks import load_hooks
from raftlog.replication.images.media import MediaFiles
from tests.replication.conftest import sqlite_database
from tests.replication.log import CLUSTER, START, apply_all, opened
from tests.replication.warehouse.commands import add_item
from tests.replication.warehouse.models import Item


def describe(index, term):
    return LogBase(index=index, term=term, log_time=START, configuration_index=1)


def never(index, term):
    raise AssertionError("not to be asked")


@pytest.fixture(params=["django.db.backends.sqlite3", "raftlog.backends.sqlite3"])
def machine(request, tmp_path, django_db_blocker):
    """Of one node, with two items at index 5."""
    use_log("default", InlineLog())
    with django_db_blocker.unblock(), sqlite_database(tmp_path, request.param):
        machine = DatabaseStateMachine("default")
        writer = opened()
        writer.add(add_item, name="screw", stock=100)
        writer.add(add_item, name="nut", stock=50)
        apply_all(machine, writer.payloads)
        machine.writer = writer
        yield machine
        machine.close()


def add(machine, name):
    del machine.writer.payloads[:]
    machine.writer.add(add_item, name=name)
    apply_all(machine, machine.writer.payloads)


def names():
    return sorted(Item.objects.values_list("name", flat=True))


def database_file() -> Path:
    return Path(connection.settings_dict["NAME"])


def test_an_image_says_what_it_holds_and_where_the_database_stood(machine, tmp_path):
    header = machine.make_image(tmp_path / "image", describe)
    assert header == images.read_header(tmp_path / "image") == images.verify_image(tmp_path / "image")
    assert (header.vendor, header.cluster_id, header.index, header.term) == ("sqlite", CLUSTER, 5, 1)
    assert header.base == describe(5, 1)
    assert (header.rows["warehouse_item"], header.rows["raftlog_clientsession"]) == (2, 1)
    assert not (tmp_path / "image.part").exists()


def test_an_image_of_sqlite_is_a_database(machine, tmp_path):
    machine.make_image(tmp_path / "image", describe)
    opened = sqlite3.connect(f"file:{tmp_path / 'image'}?mode=ro", uri=True)
    assert opened.execute("SELECT name FROM warehouse_item ORDER BY 1").fetchall() == [("nut",), ("screw",)]
    opened.close()
    assert [path.name for path in tmp_path.glob("image*")] == ["image"]


def test_an_installed_image_takes_the_database_back_to_its_index_and_apply_goes_on_from_there(machine, tmp_path):
    machine.make_image(tmp_path / "image", describe)
    at = machine.position(), machine.watch.history.value_at(5)
    add(machine, "washer")
    connection.close()
    machine.install(tmp_path / "image")
    assert (machine.position(), machine.watch.history.value_at(5)) == at
    assert names() == ["nut", "screw"]
    add(machine, "bolt")
    assert machine.last_applied == 6
    assert names() == ["bolt", "nut", "screw"]


def test_an_image_makes_the_database_where_there_is_none(machine, tmp_path):
    machine.make_image(tmp_path / "image", describe)
    machine.close()
    connection.close()
    for suffix in ("", "-wal", "-shm"):
        database_file().with_name(database_file().name + suffix).unlink(missing_ok=True)
    images.install_image("default", tmp_path / "image")
    assert names() == ["nut", "screw"]
    assert DatabaseStateMachine("default").last_applied == 5


def test_what_is_installed_is_no_change_from_elsewhere(machine, tmp_path):
    machine.make_image(tmp_path / "image", describe)
    machine.look_around()
    machine.watch.take_changed_at()
    changes = machine.watch.changes
    machine.install(tmp_path / "image")
    machine.look_around()
    assert machine.watch.changes == changes


def test_a_damaged_chunk_is_named_and_nothing_is_installed(machine, tmp_path):
    path = tmp_path / "image"
    machine.make_image(path, describe)
    add(machine, "washer")
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageDamaged, match=r"chunk 1 of \d+ \(bytes 0 to \d+, in the database\)"):
        machine.install(path)
    assert names() == ["nut", "screw", "washer"]
    add(machine, "bolt")
    assert machine.last_applied == 7


def test_a_file_without_its_end_is_no_image(machine, tmp_path):
    path = tmp_path / "image"
    machine.make_image(path, describe)
    content = path.read_bytes()
    for end in (0, 1, 35, 36, 200, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ImageError, match="is no image of raftlog, or its end is missing"):
            images.read_header(path)


def test_damage_to_each_byte_after_the_content_is_found(machine, tmp_path):
    path = tmp_path / "image"
    header = machine.make_image(path, describe)
    content = path.read_bytes()
    with path.open("r+b") as file:
        for at in range(header.content_bytes, len(content)):
            file.seek(at)
            file.write(bytes([content[at] ^ 0x10]))
            file.flush()
            with pytest.raises(ImageError):
                images.read_header(path)
            file.seek(at)
            file.write(content[at : at + 1])


def test_no_image_is_made_of_a_database_that_has_diverged(machine, tmp_path):
    machine.watch.diverge("row 1 of table warehouse_item")
    machine.look_around()
    with pytest.raises(ImageError, match="differs from the majority's: row 1"):
        machine.make_image(tmp_path / "image", never)
    assert list(tmp_path.glob("image*")) == []


def test_an_image_is_refused_where_its_vendor_or_its_tables_are_of_another_kind(machine, tmp_path, monkeypatch):
    machine.make_image(tmp_path / "image", describe)
    monkeypatch.setattr("raftlog.replication.images.operations.SCHEMA_VERSION", 1)
    with pytest.raises(ImageError, match="raftlog's tables in version 2, this raftlog knows 1"):
        machine.install(tmp_path / "image")


def test_what_is_applied_is_durable_up_to_the_index_that_make_durable_says(machine, monkeypatch):
    synced = []
    monkeypatch.setattr(sqlite, "make_durable_file", synced.append)
    assert machine.make_durable() == 5
    wal = database_file().with_name(database_file().name + "-wal")
    assert synced == [wal]  # SQLite syncs the database (test_durable.py: why nobody else may)


def test_a_large_wal_is_given_back(machine, monkeypatch):
    monkeypatch.setattr(sqlite, "LARGE_WAL", 0)
    wal = database_file().with_name(database_file().name + "-wal")
    assert wal.stat().st_size > 0
    machine.make_durable()
    assert wal.stat().st_size == 0


one_engine = pytest.mark.parametrize("machine", ["raftlog.backends.sqlite3"], indirect=True)


class Notes:
    """A hook; its state is a list."""

    state: list[str] = []

    def pack(self, stream):
        for line in self.state:
            stream.write(f"{line}\n".encode())

    def unpack(self, stream):
        type(self).state = stream.read().decode().splitlines()


NOTES = {"SNAPSHOT_HOOKS": {"notes": f"{__name__}.Notes"}}
MEDIA = {"SNAPSHOT_HOOKS": {"media": "raftlog.replication.images.media.MediaFiles", "notes": f"{__name__}.Notes"}}


@one_engine
def test_state_outside_the_database_travels_in_an_image(machine, tmp_path, settings):
    settings.RAFTLOG = NOTES
    Notes.state = ["one", "two"]
    header = machine.make_image(tmp_path / "image", describe)
    assert [(a.name, a.offset, a.size) for a in header.attachments] == [("notes", header.database_bytes, 8)]
    Notes.state = ["newer"]
    machine.install(tmp_path / "image")
    assert Notes.state == ["one", "two"]
    assert names() == ["nut", "screw"]


@one_engine
def test_an_image_is_refused_where_nobody_would_unpack_what_it_holds(machine, tmp_path, settings):
    settings.RAFTLOG = NOTES
    machine.make_image(tmp_path / "image", describe)
    settings.RAFTLOG = {}
    add(machine, "washer")
    with pytest.raises(ImageError, match=r"what the hook 'notes' packed, and RAFTLOG.* names none of that name"):
        machine.install(tmp_path / "image")
    assert names() == ["nut", "screw", "washer"]


@one_engine
def test_what_a_hook_raises_leaves_no_image(machine, tmp_path, settings, monkeypatch):
    settings.RAFTLOG = NOTES
    monkeypatch.setattr(Notes, "state", [None, 1])
    monkeypatch.setattr(Notes, "pack", lambda self, stream: stream.write(1 / 0))
    with pytest.raises(ZeroDivisionError):
        machine.make_image(tmp_path / "image", describe)
    assert list(tmp_path.glob("image*")) == []


@one_engine
def test_uploaded_files_become_those_of_the_image(machine, tmp_path, settings):
    settings.RAFTLOG = MEDIA
    settings.MEDIA_ROOT = tmp_path / "media"
    (tmp_path / "media/deep/er").mkdir(parents=True)
    (tmp_path / "media/deep/er/a.txt").write_text("a")
    (tmp_path / "media/empty").write_text("")
    (tmp_path / "media/large").write_bytes(bytes(range(256)) * 4096)
    machine.make_image(tmp_path / "image", describe)
    (tmp_path / "media/deep/er/a.txt").write_text("changed")
    (tmp_path / "media/later").write_text("x")
    (tmp_path / "media/empty").unlink()
    machine.install(tmp_path / "image")
    found = {
        str(p.relative_to(tmp_path / "media")): p.read_bytes() for p in (tmp_path / "media").rglob("*") if p.is_file()
    }
    assert found == {"deep/er/a.txt": b"a", "empty": b"", "large": bytes(range(256)) * 4096}


@pytest.mark.parametrize(
    ("path", "words"),
    [("no.such.module", "cannot be imported"), ("os.path.join", "has no pack"), ("os.getcwd", "no pack")],
)
def test_a_hook_that_is_none_is_named(settings, path, words):
    settings.RAFTLOG = {"SNAPSHOT_HOOKS": {"x": path}}
    with pytest.raises(ImageError, match=rf"\['x'\].*{words}"):
        load_hooks()


@pytest.mark.parametrize("name", ["../outside", "/outside", "linked/outside"])
def test_no_file_of_an_image_leads_out_of_the_uploaded_ones(tmp_path, settings, name):
    settings.MEDIA_ROOT = str(tmp_path / "media")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "linked").symlink_to(tmp_path)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    stream.seek(0)
    with pytest.raises(ImageError, match="outside of MEDIA_ROOT"):
        MediaFiles().unpack(stream)
    assert not (tmp_path / "outside").exists()
