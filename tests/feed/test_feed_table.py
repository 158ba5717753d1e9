"""The feed's own table: bounded, whole after `began_after`, in the transaction of the changes, of this node alone."""

import pytest
from django.db import connection

import raftlog
from raftlog import Change, Reset
from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.feed import reading
from raftlog.replication import changes as stored
from raftlog.replication.database import ApplyConnection
from raftlog.replication.tables import read_applied
from tests.feed.models import Article
from tests.replication.log import CLUSTER, batch
from tests.replication.test_apply import unavailable
from tests.replication.test_images import describe


def told(since, **options):
    return list(raftlog.changes(since, timeout=0, **options))


def restarted(node, settings, entries):
    """The node's process starts again, with that many entries in its feed; this process's setting stays."""
    before = getattr(settings, "RAFTLOG", {})
    settings.RAFTLOG = {**before, "CHANGE_FEED_ENTRIES": entries}
    node.restart()
    settings.RAFTLOG = before


def another_cluster(machine):
    servers = {"a": Server("ws://a")}
    found = Configuration("d" * 32, servers, ("a",), recovered_from=CLUSTER)
    return batch([encode_configuration(found)], machine.last_applied + 1)


def test_a_reader_behind_the_bound_gets_one_reset_and_goes_on(any_node):
    feed = any_node.machine.feed
    feed.bound, feed._prune_at = 10, 0
    start = any_node.machine.last_applied
    for number in range(40):
        Article.objects.create(title=str(number))
    reset, *others = told(start)
    assert reset == Reset(any_node.machine.last_applied)
    assert others == []
    Article.objects.create(title="new")
    [change] = told(reset.index)
    assert isinstance(change, Change)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), min(last_index) FROM raftlog_change")
        count, oldest = cursor.fetchone()
    assert 5 <= count <= 12
    # Who is not behind what was pruned gets no reset.
    assert not [each for each in told(oldest - 1) if isinstance(each, Reset)]


def test_the_feed_is_bounded_in_bytes_too(node, monkeypatch):
    monkeypatch.setattr(stored, "MAX_FEED_BYTES", 2_000)
    for number in range(60):
        Article.objects.create(title=str(number))
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(length(changes)), count(*) FROM raftlog_change")
        size, count = cursor.fetchone()
    assert size <= 2_000
    assert count > 5
    assert isinstance(told(0)[0], Reset)


def test_what_is_applied_and_what_is_told_of_it_are_one_transaction(node, monkeypatch):
    """An attempt that is rolled back, after the feed was written, leaves nothing in it; then it is there once."""
    start = node.machine.last_applied
    original, failures = ApplyConnection.moved_to, []

    def fails_once(self, index, changes):
        original(self, index, changes)
        if changes and not failures:
            failures.append(index)
            raise unavailable()

    monkeypatch.setattr(ApplyConnection, "moved_to", fails_once)
    Article.objects.create(title="ale")
    assert failures
    assert len(told(start)) == 1


def test_a_time_without_the_feed_is_a_gap_and_never_silent(any_node, settings):
    Article.objects.create(title="ale")
    saved = told(0)[-1].index
    restarted(any_node, settings, 0)
    with pytest.raises(raftlog.ChangeFeedOff, match="has no change feed"):
        told(saved)
    Article.objects.create(title="beer")
    restarted(any_node, settings, 100)
    Article.objects.create(title="cider")
    reset, *others = told(saved)
    assert isinstance(reset, Reset)
    assert others == []
    assert told(reset.index) == []


def test_what_an_older_version_applied_is_a_gap_and_never_silent(any_node, monkeypatch):
    """It knows no feed: it neither writes it nor says where it stopped."""
    Article.objects.create(title="ale")
    saved = told(0)[-1].index
    with monkeypatch.context() as older:
        older.setattr(stored.FeedWriter, "begin", lambda self, connection, applied_index: None)
        older.setattr(stored.FeedWriter, "take", lambda self, cursor, last_index, entries: b"")
        any_node.restart()
        Article.objects.create(title="beer")
    any_node.restart()
    (reset,) = told(saved)
    assert isinstance(reset, Reset)
    article = Article.objects.create(title="cider")
    assert [row.pk for change in told(reset.index) for row in change.rows] == [article.pk]


def test_a_last_update_that_changes_nothing_is_no_gap(any_node):
    """Its table is marked as changed all the same."""
    article = Article.objects.create(title="ale")
    saved = told(0)[-1].index
    Article.objects.filter(pk=article.pk).update(title="ale")
    any_node.restart()
    assert told(saved) == []
    other = Article.objects.create(title="beer")
    assert [row.pk for change in told(saved) for row in change.rows] == [other.pk]


def test_a_reader_waits_for_the_feed_of_a_database_that_was_just_installed(node, monkeypatch):
    """Until the node has begun the feed in it, there is none."""
    saved = told(0)[-1].index
    with_feed = reading.read_feed
    lacking = [True, True]

    def without(*arguments):
        stretch = with_feed(*arguments)
        return stretch._replace(began_after=None, entries=[]) if lacking and lacking.pop() else stretch

    monkeypatch.setattr(reading, "read_feed", without)
    monkeypatch.setattr(reading, "RETRY", 0.01)
    article = Article.objects.create(title="ale")
    assert next(raftlog.changes(saved, timeout=5)).rows[0].pk == article.pk
    assert not lacking
    monkeypatch.setattr(reading, "PATIENCE", 0.03)
    lacking += [True] * 1000
    with pytest.raises(raftlog.ChangeFeedOff):
        next(raftlog.changes(saved, timeout=5))


def test_the_feed_goes_on_over_a_restart(any_node):
    Article.objects.create(title="ale")
    saved = told(0)[-1].index
    any_node.restart()
    article = Article.objects.create(title="beer")
    assert [row.pk for change in told(saved) for row in change.rows] == [article.pk]


def test_an_image_carries_no_feed_and_readers_of_before_get_one_reset(any_node, tmp_path):
    Article.objects.create(title="ale")
    saved = told(0)[-1].index
    Article.objects.create(title="beer")
    live = raftlog.changes(saved, timeout=0)
    any_node.settle()
    machine = any_node.machine
    header = machine.make_image(tmp_path / "image", describe)
    assert header.rows.get("raftlog_change", 0) == 0
    connection.close()
    any_node.call(lambda: machine.install(tmp_path / "image"))
    assert list(live) == [Reset(header.index)]
    assert told(saved) == [Reset(header.index)]
    article = Article.objects.create(title="cider")
    assert [row.pk for change in told(header.index) for row in change.rows] == [article.pk]
    assert [row.pk for change in live for row in change.rows] == [article.pk]


def test_another_clusters_log_is_no_continuation(node):
    """After `raft recover` the same index may be another entry."""
    live = raftlog.changes(timeout=0)
    Article.objects.create(title="ale")
    saved = next(live).index
    node.settle()
    node.call(lambda: node.machine.apply(another_cluster(node.machine)))
    assert read_applied(connection).cluster_id == "d" * 32
    assert list(live) == [Reset(node.machine.last_applied)]
    assert told(saved) == [Reset(node.machine.last_applied)]
    assert told(node.machine.last_applied) == []
