"""A Channels consumer that tells browsers what changes, whichever node wrote it: JSON over WebSocket.

    path("changes/", raftlog.channels.ChangesConsumer.as_asgi())      # inside AllowedHostsOriginValidator and
                                                                      # AuthMiddlewareStack

The browser says once what it wants: {"subscribe": ["shop.article"], "since": 1234}. `since`, which may be left out, is
the index that it has seen last. It gets {"type": "subscribed", "index": …}, then {"type": "change", "index": …, "rows":
[{"model", "operation", "pk", "columns"}]}, and {"type": "reset", "index": …} where it has missed what is not known any
more: it loads its page anew. No values are sent: the browser asks the project's own views for those.

One reader of the feed serves all browsers of an event loop; each has a queue of `queue_limit` messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, cast
from weakref import WeakKeyDictionary

import msgspec
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.apps import apps
from django.contrib.auth import get_permission_codename
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model

from raftlog.exceptions import ChangeFeedOff
from raftlog.feed import Change, ChangeFeed, Progress, Reset, changes
from raftlog.feed.reading import RETRY
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.feed")

BAD_MESSAGE: Final = 4400
ANONYMOUS: Final = 4401
FORBIDDEN: Final = 4403
TOO_SLOW: Final = 4429
NO_FEED: Final = 4503

MAX_MESSAGE: Final = 16 << 10  # characters that a browser may send
MAX_MODELS: Final = 100  # of one subscription

Value = Change | Reset | Progress


class Broadcast:
    """Reads the feed for all subscribers of one event loop, while there are any. The loop's thread only."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Value | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = asyncio.Event()

    async def join(self, queue: asyncio.Queue[Value | None]) -> None:
        """What is applied after this returns is put into the queue; None: there is no more; full: it is taken out."""
        self._queues.add(queue)
        if self._task is None or self._task.done():
            self._has_begun = asyncio.Event()
            self._task = asyncio.create_task(self._run(self._has_begun))
        await self._has_begun.wait()

    def leave(self, queue: asyncio.Queue[Value | None]) -> None:
        self._queues.discard(queue)
        if not self._queues and self._task is not None:
            self._task.cancel()
            self._task = None

    def has(self, queue: asyncio.Queue[Value | None]) -> bool:
        """Whether nothing that came since it joined has been left out."""
        return queue in self._queues

    async def _run(self, has_begun: asyncio.Event) -> None:
        try:
            feed = changes()
            while feed.index is None:
                await sync_to_async(feed.begin)()
                if feed.index is None:
                    await asyncio.sleep(RETRY)
            has_begun.set()
            async for value in feed:
                for queue in list(self._queues):
                    self._put(queue, value)
        except ChangeFeedOff as error:
            logger.error(
                "browsers are told of no changes: %s", error, extra=log_fields("feed_ended", reason=str(error))
            )
        except Exception:  # whatever it is, no browser must wait for ever
            logger.exception("browsers are told of no more changes", extra=log_fields("feed_ended"))
        has_begun.set()
        for queue in list(self._queues):
            self._put(queue, None)

    def _put(self, queue: asyncio.Queue[Value | None], value: Value | None) -> None:
        try:
            queue.put_nowait(value)
        except asyncio.QueueFull:
            self._queues.discard(queue)


_broadcasts: WeakKeyDictionary[asyncio.AbstractEventLoop, Broadcast] = WeakKeyDictionary()


class ChangesConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One browser. A project subclasses it to say who may see what (can_subscribe)."""

    # Messages that wait for a browser that reads slowly, before it is closed with TOO_SLOW; it comes back with `since`.
    queue_limit: ClassVar[int] = 1_000

    def can_subscribe(self, scope: Mapping[str, Any], model: type[Model]) -> bool:
        """Whether this browser may hear which rows of `model` change. It may query the database.

        As it is: staff who may view the model. Asked once, when a browser subscribes.
        """
        user, options = scope["user"], model._meta
        codename = get_permission_codename("view", options)
        return bool(user.is_active and user.is_staff and user.has_perm(f"{options.app_label}.{codename}"))

    async def connect(self) -> None:
        self._telling: asyncio.Task[None] | None = None
        user = self.scope.get("user")
        self._is_signed_in = user is not None and user.is_authenticated
        if not self._is_signed_in:
            await self.accept()  # so that the browser sees the code
            await self.close(ANONYMOUS, "sign in first")
            return
        await self.accept()

    async def disconnect(self, code: int) -> None:
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if not self._is_signed_in:
            return  # it was sent before the browser heard that it is closed
        if self._telling is not None:
            await self.close(BAD_MESSAGE, "subscribed already; open another connection")
            return
        try:
            models, since = _parse(text_data)
        except ValueError as error:
            await self.close(BAD_MESSAGE, str(error)[:120])
            return
        for model in models.values():
            if not await database_sync_to_async(self.can_subscribe)(self.scope, model):
                await self.close(FORBIDDEN, f"not allowed: {model._meta.label_lower}"[:120])
                return
        self._telling = asyncio.create_task(self._tell(models, since))

    async def _tell(self, models: Mapping[str, type[Model]], since: int | None) -> None:
        broadcast = _broadcasts.setdefault(asyncio.get_running_loop(), Broadcast())
        queue: asyncio.Queue[Value | None] = asyncio.Queue(self.queue_limit)
        try:
            await broadcast.join(queue)
            # What was before the queue; what is in both is told once.
            before = changes(since, tables=models, timeout=0)
            if since is not None:
                await self._say_subscribed(since, models)
            index = await self._catch_up(before, models)
            if since is None:
                await self._say_subscribed(index, models)
            while (value := await self._next(broadcast, queue)) is not None:
                if isinstance(value, Reset) and value.index < index:
                    index = value.index - 1  # the log has gone back: what follows is new
                if value.index <= index:
                    continue
                message = _message(value, models)
                if isinstance(value, Reset) or message["rows"]:
                    await self._say(message)
        except ChangeFeedOff as error:
            await self.close(NO_FEED, str(error)[:120])
        else:
            is_slow = not broadcast.has(queue)
            await self.close(*((TOO_SLOW, "come back with `since`") if is_slow else (NO_FEED, "no more changes")))
        finally:
            broadcast.leave(queue)

    async def _catch_up(self, before: ChangeFeed, models: Mapping[str, type[Model]]) -> int:
        """Tell what there is, one after the other; returns the index reached. A database that is away is waited for."""
        while True:
            async for value in before:
                await self._say(_message(value, models))
            if not before.is_in_trouble and before.index is not None:
                return before.index
            await asyncio.sleep(RETRY)

    async def _next(self, broadcast: Broadcast, queue: asyncio.Queue[Value | None]) -> Value | None:
        if queue.empty() and not broadcast.has(queue):
            return None
        return await queue.get()

    async def _say_subscribed(self, index: int, models: Mapping[str, type[Model]]) -> None:
        """`index`: where what follows begins: a browser that goes away before it has all of it comes back with this."""
        await self._say({"type": "subscribed", "index": index, "models": _labels(models)})

    async def _say(self, message: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(message, cls=_Encoder))


class _Subscription(msgspec.Struct):
    """What a browser sends."""

    subscribe: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_MODELS)]
    since: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] | None = None


_decoder = msgspec.json.Decoder(_Subscription)


class _Encoder(DjangoJSONEncoder):
    def default(self, o: Any) -> Any:
        return o.hex() if isinstance(o, bytes) else super().default(o)


def _parse(text: str | None) -> tuple[dict[str, type[Model]], int | None]:
    """(table -> model, since). Raises ValueError, which says what is wrong."""
    if text is None or len(text) > MAX_MESSAGE:
        raise ValueError(f"a text message of at most {MAX_MESSAGE} characters is wanted")
    try:
        wanted = _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"no subscription: {error}") from None
    return {model._meta.db_table: model for model in map(_model, wanted.subscribe)}, wanted.since


def _model(label: str) -> type[Model]:
    try:
        return cast("type[Model]", apps.get_model(label))
    except (LookupError, ValueError):
        raise ValueError(f"there is no model {label[:60]!r}") from None


def _labels(models: Mapping[str, type[Model]]) -> list[str]:
    return sorted(model._meta.label_lower for model in models.values())


def _message(value: Value, models: Mapping[str, type[Model]]) -> dict[str, Any]:
    if not isinstance(value, Change):
        return {"type": "reset", "index": value.index}
    rows = [
        {
            "model": models[row.table]._meta.label_lower,
            "operation": row.operation,
            "pk": row.pk,
            "columns": row.columns,
        }
        for row in value.rows
        if row.table in models
    ]
    return {"type": "change", "index": value.index, "rows": rows}
