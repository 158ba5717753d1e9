"""What the feed says of each kind of entry, on both vendors."""

import uuid

import pytest
from django.db import IntegrityError, connection, models, transaction

import raftlog
from raftlog import Change, ChangedRow, Reset
from raftlog.exceptions import ChangeFeedOff, InsideTransaction
from raftlog.replication import changes as stored
from raftlog.replication.registry import command
from tests.feed.models import Article, Page, Vote


@command
def publish(ctx, *, title: str, views: int = 0) -> int:
    article, _ = Article.objects.get_or_create(title=title, defaults={"id": ctx.index})
    article.views = views
    article.save()
    return article.pk


@command
def publish_and_fail(ctx, *, title: str) -> None:
    Article.objects.create(id=ctx.index, title=title)
    Article.objects.create(id=ctx.index + 1, title=title)


def told(since, **options):
    """What is there after an index."""
    return list(raftlog.changes(since, timeout=0, **options))


def rows(since, **options):
    return [row for change in told(since, **options) for row in change.rows]


ARTICLE = "tests_feed_article"


def test_transactions_are_told_whole_with_key_and_changed_columns(any_node):
    start = any_node.machine.last_applied
    article = Article.objects.create(title="ale", views=1)
    [change] = told(start)
    assert change == Change(any_node.machine.last_applied, (ChangedRow(ARTICLE, "insert", (article.pk,)),), "", True)
    assert (change.rows[0].pk, change.rows[0].model) == (article.pk, Article)
    with transaction.atomic():
        Article.objects.filter(pk=article.pk).update(views=5)
        other = Article.objects.create(title="beer")
    [change] = told(change.index)
    assert change.rows == (
        ChangedRow(ARTICLE, "update", (article.pk,), ("views",)),
        ChangedRow(ARTICLE, "insert", (other.pk,)),
    )
    key = article.pk
    article.delete()
    assert rows(change.index) == [ChangedRow(ARTICLE, "delete", (key,))]
    assert Article.objects.get(pk=told(start)[1].rows[1].pk) == other


def test_commands_are_told_by_their_name(any_node):
    start = any_node.machine.last_applied
    key = publish.propose(title="ale", views=3)
    [change] = told(start)
    assert (change.command, change.from_here) == (publish.name, False)
    assert set(change.rows) == {
        ChangedRow(ARTICLE, "insert", (key,)),
        ChangedRow(ARTICLE, "update", (key,), ("views",)),
    }
    publish.propose(title="ale", views=3)
    with pytest.raises(IntegrityError):
        publish_and_fail.propose(title="stout")
    assert told(change.index) == []


def test_an_update_that_changes_nothing_is_no_change(any_node):
    article = Article.objects.create(title="ale", views=1)
    start = any_node.machine.last_applied
    article.save()
    Article.objects.update(views=models.F("views"))
    assert any_node.machine.last_applied > start - 1
    assert told(start) == []


def test_keys_are_as_the_orm_knows_them(any_node):
    start = any_node.machine.last_applied
    page = Page.objects.create(slug="home")
    vote = Vote.objects.create(article_id=7, voter="ann")
    Vote.objects.filter(pk=vote.pk).update(stars=2)
    found = rows(start)
    assert [row.pk for row in found] == [page.pk, (7, "ann"), (7, "ann")]
    assert isinstance(found[0].pk, uuid.UUID)
    assert Page.objects.get(pk=found[0].pk) == page
    assert Vote.objects.get(pk=found[1].pk).stars == 2


def test_a_row_whose_key_changes_is_another_one(any_node):
    article = Article.objects.create(title="ale")
    start = any_node.machine.last_applied
    Article.objects.filter(pk=article.pk).update(id=article.pk + 500)
    assert rows(start) == [
        ChangedRow(ARTICLE, "delete", (article.pk,)),
        ChangedRow(ARTICLE, "insert", (article.pk + 500,)),
    ]


def test_tables_are_told_that_a_schema_change_makes_alters_renames_and_drops(any_node):
    start = any_node.machine.last_applied
    with connection.schema_editor() as editor:
        editor.alter_db_table(Vote, "tests_feed_vote", "tests_feed_opinion")
    assert {(row.table, row.operation, row.key) for row in rows(start)} == {
        ("tests_feed_vote", "schema", ()),
        ("tests_feed_opinion", "schema", ()),
    }
    start = any_node.machine.last_applied
    with connection.schema_editor() as editor:
        field = models.IntegerField(default=0)
        field.set_attributes_from_name("likes")
        editor.add_field(Article, field)
    assert (ARTICLE, "schema") in {(row.table, row.operation) for row in rows(start)}


def test_an_entry_with_very_many_rows_says_only_which_tables(any_node, monkeypatch):
    monkeypatch.setattr(stored, "MAX_ROWS", 10)
    start = any_node.machine.last_applied
    with transaction.atomic():
        Article.objects.bulk_create([Article(title=str(number)) for number in range(11)])
        Page.objects.create(slug="home")
    assert rows(start) == [ChangedRow(ARTICLE, "table"), ChangedRow("tests_feed_page", "table")]


def test_an_entry_with_very_long_keys_says_only_which_tables(any_node, monkeypatch):
    monkeypatch.setattr(stored, "MAX_ENTRY_BYTES", 100)
    monkeypatch.setattr(stored, "FEW_ROWS", 1)
    start = any_node.machine.last_applied
    Vote.objects.create(article_id=1, voter="x" * 20)
    assert rows(start)[0].operation == "insert"
    Vote.objects.bulk_create([Vote(article_id=2, voter=f"{number:020}") for number in range(8)])
    assert rows(start)[1:] == [ChangedRow("tests_feed_vote", "table")]


def test_a_table_without_a_primary_key_is_told_as_a_whole(any_node):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE plain (a integer, b integer)")
        start = any_node.machine.last_applied
        cursor.execute("INSERT INTO plain VALUES (1, 2), (3, 4)")
    assert rows(start) == [ChangedRow("plain", "table")]
    assert rows(start)[0].model is None


def test_only_the_tables_asked_for_are_told_and_the_index_goes_on_all_the_same(node):
    start = node.machine.last_applied
    Article.objects.create(title="ale")
    page = Page.objects.create(slug="home")
    Article.objects.create(title="beer")
    feed = raftlog.changes(start, models=[Page], timeout=0)
    assert [change.rows[0].pk for change in feed] == [page.pk]
    assert feed.index == node.machine.last_applied
    assert rows(start, tables=["tests_feed_page"]) == rows(start, models=[Page])


def test_since_zero_begins_with_the_first_entry(node):
    operations = [row.operation for row in rows(0)]
    assert "schema" in operations
    assert not any(isinstance(each, Reset) for each in told(0))


def test_the_feed_is_not_read_inside_a_transaction(node):
    feed = raftlog.changes(0)
    with transaction.atomic(), pytest.raises(InsideTransaction, match="leave atomic"):
        next(feed)


def test_a_feed_that_is_switched_off_is_refused(node, settings):
    settings.RAFTLOG = {**getattr(settings, "RAFTLOG", {}), "CHANGE_FEED_ENTRIES": 0}
    with pytest.raises(ChangeFeedOff, match="CHANGE_FEED_ENTRIES"):
        raftlog.changes()
