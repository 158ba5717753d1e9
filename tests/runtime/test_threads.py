"""A thread that dies is heard."""

from unittest import mock

import pytest

from raftlog.runtime import clock, threads
from raftlog.runtime.threads import NodeThread


def test_a_thread_that_raises_reports_its_name_and_error(caplog):
    deaths = []

    def main():
        raise OSError("disk gone")

    thread = NodeThread("raftlog-a-log-sync", main, lambda name, error: deaths.append((name, str(error))))
    thread.start()
    assert thread.join(5)
    assert deaths == [("raftlog-a-log-sync", "disk gone")]
    assert "raftlog-a-log-sync died: disk gone" in caplog.text
    assert thread.doing == "died: disk gone"


def test_a_thread_that_returns_dies_quietly():
    deaths = []
    thread = NodeThread("raftlog-a-apply", lambda: None, lambda *death: deaths.append(death))
    thread.start()
    assert thread.join(5)
    assert deaths == []
    assert thread.doing == "ended"


def test_a_thread_that_was_never_started_joins_at_once():
    assert NodeThread("x", lambda: None, lambda *death: None).join(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_death_is_reported_whatever_else_is_broken(monkeypatch):
    """A project's test may leave a log handler that raises: the node must know all the same that it is crippled."""

    def broken(*args, **keywords):
        raise ValueError("a handler of the project")

    monkeypatch.setattr(threads.logger, "critical", broken)
    deaths = []

    def main():
        raise OSError("no such disk")

    thread = NodeThread("raftlog-a-apply", main, lambda name, error: deaths.append((name, str(error))))
    thread.start()
    assert thread.join(5)
    assert deaths == [("raftlog-a-apply", "no such disk")]


def test_a_mock_in_the_place_of_a_clock_does_not_reach_the_node(monkeypatch):
    for name in ("monotonic", "clock_gettime", "time_ns", "sleep"):
        monkeypatch.setattr(f"time.{name}", mock.Mock(side_effect=StopIteration))
    before = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.wall_microseconds() > 0
