"""Readers that wait: woken by the node, or by their own look at the database; in threads and in event loops."""

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections

import raftlog
from raftlog import Progress, follow_changes, signals
from raftlog.feed import following, reading, watching
from raftlog.replication.tables import read_applied
from raftlog.runtime import clock
from raftlog.runtime.applied import AppliedWaiters
from tests.feed.models import Article, Page
from tests.feed.test_changes import publish


def in_a_thread(function):
    """Start it; returns what ends it and gives its result."""
    results = []

    def main():
        try:
            results.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=main)
    thread.start()

    def result():
        thread.join(10)
        assert results, "it has not ended, or failed"
        return results[0]

    return result


def test_a_reader_that_waits_is_told_of_the_next_change(node):
    feed = raftlog.changes(timeout=10)
    result = in_a_thread(lambda: next(feed))
    article = Article.objects.create(title="ale")
    assert result().rows[0].pk == article.pk


def test_an_iteration_ends_when_nothing_came_for_its_time(node):
    began = clock.monotonic()
    assert list(raftlog.changes(timeout=0.1)) == []
    assert 0.1 <= clock.monotonic() - began < 5


def test_a_reader_of_other_tables_hears_of_progress(node):
    feed = raftlog.changes(models=[Page], timeout=5, progress=0.02)
    for title in ("ale", "beer"):
        Article.objects.create(title=title)
        written = read_applied(connections["default"]).index
        while (told := next(feed)).index < written:
            assert isinstance(told, Progress)
        assert told == Progress(feed.index)
    # It is no change, so that the iteration ends all the same.
    assert set(raftlog.changes(feed.index, models=[Page], timeout=0.1, progress=0.02)) >= {Progress(feed.index)}


def test_asynchronous_readers_wait_without_a_thread_each(node):
    start = node.machine.last_applied

    async def read(feed):
        return [change async for change in feed]

    async def main():
        readers = [asyncio.create_task(read(raftlog.achanges(start, timeout=1.0))) for _ in range(8)]
        await asyncio.sleep(0.1)
        before = threading.active_count()
        await sync_to_async(Article.objects.create)(title="ale")
        found = await asyncio.gather(*readers)
        return before, found

    before, found = async_to_sync(main)()
    assert before < 16
    assert [len(changes) for changes in found] == [1] * 8


def test_without_an_index_an_asynchronous_reader_begins_when_it_is_first_awaited(node):
    Article.objects.create(title="ale")

    async def main():
        feed = raftlog.achanges(timeout=0)
        return [change async for change in feed], feed.index

    assert async_to_sync(main)() == ([], node.machine.last_applied)


def test_a_reader_begins_once_the_database_is_there(node, monkeypatch, caplog):
    """A process that starts before the node does is no failure."""
    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_feed", lambda *arguments: connections["default"].cursor().execute("SELECT x"))
        feed = raftlog.changes(timeout=0)
        assert list(feed) == []
    assert feed.index is None
    assert "cannot be read" in caplog.text
    assert list(feed) == []
    assert feed.index == node.machine.last_applied


def test_the_thread_that_watches_ends_soon_after_the_last_reader(node):
    list(raftlog.changes(timeout=0.1))
    deadline = clock.monotonic() + 5
    while any(thread.name == "raftlog-feed" for thread in threading.enumerate()):
        assert clock.monotonic() < deadline
        clock.sleep(0.01)


def test_who_waits_for_an_index_is_told_once_and_can_take_it_back():
    waiters, told = AppliedWaiters(), []
    waiters.applied(5)
    assert waiters.add(4, told.append)() is False
    take_back = waiters.add(5, told.append)
    assert told == [5]
    assert take_back() is True
    waiters.add(5, told.append)
    waiters.applied(7)
    waiters.applied(8)
    assert told == [5, 7]
    assert waiters.wait(8, 0.01) == waiters.wait(3, 10) == 8


@pytest.fixture
def received():
    found = []

    def receive(sender, **arguments):
        found.append((sender, arguments))
        raise ValueError("a receiver's mistake harms nobody")

    def reset(sender, index, **arguments):
        found.append(("reset", index))

    signals.rows_changed.connect(receive)
    signals.changes_reset.connect(reset)
    yield found
    signals.rows_changed.disconnect(receive)
    signals.changes_reset.disconnect(reset)
    if following._follower is not None:
        following._follower.stop()


def wait_until(reached):
    deadline = clock.monotonic() + 10
    while not reached():
        assert clock.monotonic() < deadline
        clock.sleep(0.005)


def test_signals_say_what_changed_and_whether_it_was_done_here(node, received, monkeypatch):
    follower = follow_changes()
    assert follow_changes() is follower
    Article.objects.bulk_create([Article(title="ale"), Article(title="beer")])
    publish.propose(title="cider")
    wait_until(lambda: len(received) >= 2)
    (sender, first), (_, second) = received[:2]
    assert sender is first["model"] is Article
    expected = {"table": "tests_feed_article", "operation": "insert", "columns": (), "command": "", "from_here": True}
    assert expected.items() <= first.items()
    assert first["keys"] == list(Article.objects.exclude(title="cider").values_list("pk", flat=True).order_by("pk"))
    assert (second["command"], second["from_here"]) == (publish.name, False)
    # What was proposed by a process that is another one by now was not done here.
    follower.stop()
    assert not follower.is_alive
    monkeypatch.setattr("raftlog.feed.reading.is_own_session", lambda session: False)
    del received[:]
    again = follow_changes(first["index"] - 1)
    assert again is not follower
    wait_until(lambda: received)
    assert received[0][1] == {**first, "from_here": False}


def test_a_follower_tells_that_changes_were_missed(node, received):
    node.machine.feed.bound = 1
    for number in range(20):
        Article.objects.create(title=str(number))
    node.machine.feed._prune_at = 0
    Article.objects.create(title="last")
    follow_changes(1)
    wait_until(lambda: received)
    assert received == [("reset", node.machine.last_applied)]


def test_while_a_node_answers_nobody_looks_at_the_database(monkeypatch):
    waiters, looks = AppliedWaiters(), []
    monkeypatch.setattr(watching, "current_node", lambda: type("Node", (), {"applied": waiters}))
    watch = watching.AppliedWatch()
    monkeypatch.setattr(watch, "_look", lambda: looks.append("looked"))
    result = in_a_thread(lambda: watch.wait(3, 10))
    wait_until(lambda: waiters._waiting)
    waiters.applied(3)
    waiters.applied(4)
    assert result() is None
    assert looks == []


def test_readers_do_not_poll_where_a_new_log_is_behind_what_was_heard_of_the_old_one(node, monkeypatch):
    read, times = reading.read_feed, []
    monkeypatch.setattr(reading, "read_feed", lambda *arguments: times.append(1) or read(*arguments))
    monkeypatch.setattr(watching.watch, "_index", 1_000_000)
    assert list(raftlog.changes(timeout=0.5)) == []
    assert len(times) < 10
