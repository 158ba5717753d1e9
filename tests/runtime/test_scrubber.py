"""The scrubber finds damage of a folder in use, tells each once, holds its rate and ends when it is asked to."""

from __future__ import annotations

import queue

import pytest

from raftlog.runtime.scrubber import Scrubber
from tests.storage.helpers import batch, opened

WAIT = 30  # seconds, for a busy machine


@pytest.fixture
def storage(tmp_path):
    storage = opened(tmp_path, segment_bytes=1 << 16)
    for index in range(1, 601, 10):
        storage.log.append(batch(index, 10, size=300))
    storage.log.sync()
    yield storage
    storage.close()


class Told:
    """What a scrubber said."""

    def __init__(self) -> None:
        self.findings: queue.Queue[object] = queue.Queue()
        self.deaths: list[str] = []

    def died(self, name: str, error: BaseException) -> None:
        self.deaths.append(f"{name}: {error}")
        self.findings.put(error)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def scrub(storage, told):
    """Begins a scrubber over the folder."""
    made = []

    def begin(rate, interval):
        scrubber = Scrubber(
            storage.filesystem,
            storage.directory,
            "a",
            rate,
            told.findings.put,
            told.died,
            first_delay=0.0,
            pass_interval=interval,
        )
        made.append(scrubber)
        scrubber.start()
        return scrubber

    yield begin
    for scrubber in made:
        scrubber.ask_to_stop()
        assert scrubber.join(WAIT) == []
    assert told.deaths == []


def test_damage_is_told_once_and_stays_in_the_status(storage, told, scrub):
    sealed = storage.log._contents.sealed[0].path
    with open(sealed, "r+b") as file:
        file.seek(512 + 90)
        file.write(b"damage")
    scrubber = scrub(1 << 30, 0.01)
    finding = told.findings.get(timeout=WAIT)
    assert (finding.path, finding.offset) == (sealed, 512)
    while scrubber.passes < 3:
        with pytest.raises(queue.Empty):
            told.findings.get(timeout=0.05)
    status = scrubber.status()
    assert status["findings"] == [str(finding)]
    assert status["last_pass"]["findings"] == 1
    assert status["last_pass"]["read_bytes"] > 0.8 * status["total_bytes"] > 200_000


def test_damage_of_what_is_in_use_is_told_when_it_is_still_there(storage, told, scrub):
    with open(storage.log._open.path, "r+b") as file:
        file.seek(512 + 90)
        file.write(b"damage")
    scrub(1 << 30, 1000.0)
    finding = told.findings.get(timeout=WAIT)
    assert finding.path == storage.log._open.path


def test_it_reads_slowly_and_ends_in_the_middle(storage, scrub):
    """At this rate the first pieces take hours, and yet it ends at once."""
    scrubber = scrub(16, 0.0)
    assert scrubber.status()["passes"] == 0
    scrubber.ask_to_stop()
    assert scrubber.join(WAIT) == []
    assert scrubber.passes == 0
