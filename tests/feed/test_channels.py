"""Browsers: who may subscribe to what, what they are told, and what happens to those that do not read."""

import asyncio
import json

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import OperationalError

from raftlog import channels
from raftlog.channels import ChangesConsumer
from raftlog.feed import Change, ChangedRow, Reset, reading
from tests.feed.models import MODELS, Article, Page

LABELS = {model._meta.label_lower: model for model in MODELS}


class User:
    is_active = is_staff = is_authenticated = True

    def __init__(self, *permissions):
        self.permissions = permissions

    def has_perm(self, name):
        return name in self.permissions


class Anonymous(User):
    is_authenticated = False


READER = User("tests_feed.view_article")


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    monkeypatch.setattr(channels, "_model", LABELS.__getitem__)


async def connected(user=READER, consumer=ChangesConsumer):
    browser = WebsocketCommunicator(consumer.as_asgi(), "/changes/")
    browser.scope["user"] = user
    assert (await browser.connect())[0]
    return browser


async def subscribed(since=None, **options):
    browser = await connected(**options)
    await browser.send_json_to({"subscribe": ["tests_feed.article"], "since": since})
    answer = await browser.receive_json_from(5)
    assert (answer["type"], answer["models"]) == ("subscribed", ["tests_feed.article"])
    return browser, answer["index"]


async def code_of(browser):
    while (message := await browser.receive_output(5))["type"] != "websocket.close":
        pass
    return message["code"]


create = sync_to_async(Article.objects.create)


def test_a_browser_is_told_which_rows_change(node):
    async def main():
        browser, index = await subscribed()
        article = await create(title="ale")
        await sync_to_async(Page.objects.create)(slug="not asked for")
        await sync_to_async(Article.objects.filter(pk=article.pk).update)(views=3)
        first, second = [await browser.receive_json_from(5) for _ in range(2)]
        row = {"model": "tests_feed.article", "operation": "insert", "pk": article.pk, "columns": []}
        assert (first["type"], first["rows"]) == ("change", [row])
        assert index < first["index"] < second["index"]
        assert second["rows"] == [{**row, "operation": "update", "columns": ["views"]}]
        await browser.disconnect()
        # It comes back with what it has seen last.
        again, index = await subscribed(since=first["index"])
        assert index == first["index"]
        assert await again.receive_json_from(5) == second
        assert await again.receive_nothing(0.1)
        await again.disconnect()
        assert not channels._broadcasts[asyncio.get_running_loop()]._queues

    async_to_sync(main)()


def test_nothing_is_lost_before_the_common_reader_has_begun(node, monkeypatch):
    begin = channels.Broadcast._run

    async def late(self, has_begun):
        await asyncio.sleep(0.2)
        await begin(self, has_begun)

    monkeypatch.setattr(channels.Broadcast, "_run", late)

    async def main():
        browser, _ = await subscribed()
        article = await create(title="ale")
        assert (await browser.receive_json_from(5))["rows"][0]["pk"] == article.pk
        await browser.disconnect()

    async_to_sync(main)()


def test_a_browser_that_missed_too_much_is_told_to_begin_anew(node):
    node.machine.feed.bound = 1

    async def main():
        for number in range(5):
            node.machine.feed._prune_at = 0
            await create(title=str(number))
        browser, index = await subscribed(since=1)
        assert index == 1
        assert await browser.receive_json_from(5) == {"type": "reset", "index": node.machine.last_applied}
        await create(title="new")
        assert (await browser.receive_json_from(5))["type"] == "change"
        await browser.disconnect()

    async_to_sync(main)()


@pytest.mark.parametrize(
    ("user", "code"),
    [
        (Anonymous(), channels.ANONYMOUS),
        (None, channels.ANONYMOUS),
        (User("tests_feed.view_page"), channels.FORBIDDEN),
    ],
)
def test_who_may_not_see_a_model_is_refused(node, user, code):
    async def main():
        browser = await connected(user)
        if code == channels.FORBIDDEN:
            await browser.send_json_to({"subscribe": ["tests_feed.article"]})
        assert await code_of(browser) == code

    async_to_sync(main)()


def test_a_project_says_who_may_subscribe(node):
    class Everyone(ChangesConsumer):
        def can_subscribe(self, scope, model):
            return model is Article

    async def main():
        browser, _ = await subscribed(user=User(), consumer=Everyone)
        await browser.disconnect()

    async_to_sync(main)()


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        '{"subscribe": []}',
        '{"subscribe": "tests_feed.article"}',
        '{"subscribe": ["tests_feed.article"], "since": "1"}',
        '{"subscribe": ["tests_feed.article"], "since": -1}',
        '{"subscribe": ["tests_feed.article"], "since": true}',
        json.dumps({"subscribe": ["tests_feed.article"], "filler": "x" * channels.MAX_MESSAGE}),
        "[" * 10_000,
    ],
)
def test_what_is_no_subscription_is_refused(text):
    async def main():
        browser = await connected()
        await browser.send_to(text_data=text)
        assert await code_of(browser) == channels.BAD_MESSAGE

    async_to_sync(main)()


def test_there_is_one_subscription_a_connection(node):
    async def main():
        browser, _ = await subscribed()
        await browser.send_json_to({"subscribe": ["tests_feed.article"]})
        assert await code_of(browser) == channels.BAD_MESSAGE
        await browser.disconnect()

    async_to_sync(main)()


def test_a_browser_that_does_not_read_is_closed_and_others_are_not(node):
    """Its connection takes nothing, so its queue fills; what it had not read it gets with `since`."""
    blocked = asyncio.Event

    class Slow(ChangesConsumer):
        queue_limit = 2

        async def _say(self, message):
            if message["type"] == "change":
                await self.scope["gate"].wait()
            await super()._say(message)

    async def main():
        browser = WebsocketCommunicator(Slow.as_asgi(), "/changes/")
        gate = blocked()
        browser.scope |= {"user": READER, "gate": gate}
        await browser.connect()
        await browser.send_json_to({"subscribe": ["tests_feed.article"]})
        await browser.receive_json_from(5)
        quick, _ = await subscribed()
        for number in range(8):
            await create(title=str(number))
        told = [await quick.receive_json_from(5) for _ in range(8)]
        gate.set()
        first = await browser.receive_json_from(5)
        assert first == told[0]
        assert await code_of(browser) == channels.TOO_SLOW
        await browser.disconnect()
        again, _ = await subscribed(since=first["index"])
        assert [await again.receive_json_from(5) for _ in range(7)] == told[1:]
        await quick.disconnect()
        await again.disconnect()

    async_to_sync(main)()


def test_without_a_feed_browsers_are_told_so(node, settings):
    settings.RAFTLOG = {**getattr(settings, "RAFTLOG", {}), "CHANGE_FEED_ENTRIES": 0}

    async def main():
        browser = await connected()
        await browser.send_json_to({"subscribe": ["tests_feed.article"]})
        assert await code_of(browser) == channels.NO_FEED

    async_to_sync(main)()


def test_who_is_not_signed_in_subscribes_to_nothing(node):
    """Not even where a project lets everybody that is."""
    asked = []

    class Open(ChangesConsumer):
        def can_subscribe(self, scope, model):
            asked.append(scope["user"])
            return True

    async def main():
        browser = await connected(Anonymous(), Open)
        await browser.send_json_to({"subscribe": ["tests_feed.article"]})
        assert await code_of(browser) == channels.ANONYMOUS
        assert await browser.receive_nothing(0.2)
        await browser.disconnect()

    async_to_sync(main)()
    assert asked == []


def test_a_browser_that_comes_back_while_the_database_is_away_misses_nothing(node, monkeypatch):
    async def main():
        quick, index = await subscribed()
        article = await create(title="ale")
        told = await quick.receive_json_from(5)
        read = reading.read_feed
        failures = iter([True])

        def away(connection, after, limit):
            if after == index and next(failures, False):
                raise OperationalError("it is being replaced")
            return read(connection, after, limit)

        monkeypatch.setattr(reading, "read_feed", away)
        again, _ = await subscribed(since=index)
        assert await again.receive_json_from(5) == told
        assert told["rows"][0]["pk"] == article.pk
        await quick.disconnect()
        await again.disconnect()

    async_to_sync(main)()


def test_a_log_that_goes_back_is_told_to_browsers(node):
    """After `raft restore` or `raft recover` the indexes are lower than what a browser has seen."""

    async def main():
        browser, _ = await subscribed(since=1_000)
        (queue,) = channels._broadcasts[asyncio.get_running_loop()]._queues
        queue.put_nowait(Reset(500))
        assert await browser.receive_json_from(5) == {"type": "reset", "index": 500}
        queue.put_nowait(Change(501, (ChangedRow(Article._meta.db_table, "insert", (7,)),)))
        assert (await browser.receive_json_from(5))["index"] == 501
        await browser.disconnect()

    async_to_sync(main)()
