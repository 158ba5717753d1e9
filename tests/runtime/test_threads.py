"""A thread that dies is heard."""

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
