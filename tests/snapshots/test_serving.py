"""A node makes an image once for all who ask, and removes it when nobody reads it any more."""

import threading

import pytest

from raftlog.consensus.snapshot import LogBase
from raftlog.exceptions import ImageError
from raftlog.runtime import clock
from raftlog.snapshots import serving
from raftlog.snapshots.serving import ImageServer, NoSuchImage
from raftlog.snapshots.tally import Tally
from tests.snapshots.cluster import write_image


class Host:
    """An ImageServer with its thread; every image is at `index`."""

    def __init__(self, folder):
        self.index, self.made, self.size, self.problem = 10, 0, 0, None
        self.tally = Tally()
        self.server = ImageServer(
            folder / "images", self.make, lambda index, term: LogBase(index, term), self.tell, self.tally
        )
        (folder / "images").mkdir()
        (folder / "images" / "left over").touch()
        self.thread = threading.Thread(target=self.server.main, args=[lambda doing: None])
        self.thread.start()

    def make(self, path, describe, *, on_progress):
        if self.problem:
            raise self.problem
        on_progress(1, 2)
        self.made += 1
        return write_image(path, [b"x"] * 100, describe(self.index, 1))

    def tell(self):
        return self.size

    def ask(self, name, **arguments):
        return self.server.requests()[name]({"by": "b", **arguments})

    def open(self, minimum_index=1, image="", by="b"):
        deadline = clock.monotonic() + 60
        while True:
            answer = self.ask("snapshot_open", minimum_index=minimum_index, image=image, by=by)
            if answer["image"]:
                return answer
            assert clock.monotonic() < deadline
            clock.sleep(0.005)

    def open_again(self):
        """Once the last failure is no answer any more."""
        wait(lambda: self.server._failure[1] < clock.monotonic() - serving.WAIT)
        self.open()


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "WAIT", 0.02)
    made = Host(tmp_path)
    yield made
    made.server.stop()
    made.thread.join(60)
    assert not made.thread.is_alive()


def wait(condition):
    deadline = clock.monotonic() + 60
    while not condition():
        assert clock.monotonic() < deadline
        clock.sleep(0.005)


def test_all_who_ask_get_one_image_until_they_need_a_newer_one(host):
    first = host.open()
    assert (first["index"], host.made) == (10, 1)
    assert host.open(by="c") == first
    host.index = 20
    second = host.open(minimum_index=11)
    assert (second["index"], host.made) == (20, 2)
    assert host.open(image=first["image"]) == first  # who has begun with it goes on


def test_what_it_reads_is_the_file(host):
    image = host.open()
    data = host.ask("snapshot_read", image=image["image"], offset=0)
    data += host.ask("snapshot_read", image=image["image"], offset=len(data))
    assert data == (host.server._directory / "10").read_bytes()
    assert len(data) == image["bytes"]
    assert host.ask("snapshot_read", image=image["image"], offset=len(data)) == b""


def test_what_an_earlier_process_left_is_removed(host):
    host.open()
    assert [path.name for path in host.server._directory.iterdir()] == ["10"]


def test_it_is_removed_once_all_have_read_it(host, monkeypatch):
    image = host.open()["image"]
    host.open(by="c")
    monkeypatch.setattr(serving, "LINGER", 0.0)
    host.ask("snapshot_close", image=image)
    assert host.server.status()["images"][0]["to"] == ["c"]
    host.ask("snapshot_close", image=image, by="c")
    wait(lambda: not host.server.status()["images"])
    with pytest.raises(NoSuchImage):
        host.ask("snapshot_read", image=image, offset=0)


def test_it_is_kept_for_a_while_for_a_puller_whose_connection_broke(host, monkeypatch):
    image = host.open()["image"]
    monkeypatch.setattr(serving, "LINGER", 0.0)
    host.index = 20
    assert host.ask("snapshot_read", image=image, offset=0)
    monkeypatch.setattr(serving, "KEEP", 0.0)
    wait(lambda: not host.server.status()["images"])
    with pytest.raises(NoSuchImage):
        host.ask("snapshot_read", image=image, offset=0)


def test_the_oldest_goes_where_there_would_be_too_many(host):
    for index in (10, 20, 30):
        host.index = index
        host.open(minimum_index=index)
    assert [image["index"] for image in host.server.status()["images"]] == [20, 30]


def test_without_room_none_is_made(host):
    host.size = 1 << 60
    with pytest.raises(ImageError, match="are free"):
        host.open()
    host.size = 0
    host.open_again()
    made = host.tally.as_data()["make"]
    assert made["failed"] >= 1
    assert (made["done"], made["bytes"]) == (1, host.server.status()["images"][0]["bytes"])


def test_why_none_could_be_made_is_told_and_it_is_tried_again(host):
    host.problem = ImageError("no pg_dump")
    with pytest.raises(ImageError, match="no pg_dump"):
        host.open()
    host.problem = None
    host.open_again()
