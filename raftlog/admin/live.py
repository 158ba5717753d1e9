"""Pages that follow the cluster: a WebSocket for staff who may see it, from the site's own pages only.

What comes over the channel layer is rendered here, by the templates that rendered the page, and sent as HTML; the
script in the page puts it in its place. Where the layer or the node is silent the page is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack, get_user
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings as django_settings
from django.template.loader import render_to_string

from raftlog.admin import cluster, elections, members
from raftlog.asking import ask
from raftlog.conf import load_settings
from raftlog.exceptions import RaftlogError
from raftlog.log_fields import log_fields
from raftlog.observing.live import LIVE_PATH, group, layer

logger = logging.getLogger("raftlog.live")

SILENCE: Final = 3.0  # seconds without a word from the node, after which live updates are said to be off
WATCH_INTERVAL: Final = 4.0  # seconds between two words to the node that somebody watches
RETRY: Final = 1.0  # seconds until a channel layer that failed is tried again
CHECK_INTERVAL: Final = 4.0  # seconds between two looks whether the page's user may still see it
REFUSED: Final = 4403

# Page -> what its fragment is made of, from the report.
FRAGMENTS: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "cluster": cluster.fragment_context,
    "members": members.fragment_context,
    "elections": elections.fragment_context,
}


class LiveConsumer(AsyncConsumer):  # type: ignore[misc]
    """One page. The browser's first message names it: {"page": "cluster"}."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self._send = send
        await receive()  # websocket.connect
        user = scope["user"]
        self._rights = await database_sync_to_async(rights_of)(user)
        if "view_cluster" not in self._rights:
            await send({"type": "websocket.close", "code": REFUSED})
            return
        await send({"type": "websocket.accept"})
        page = page_of(await receive())
        if page is None:
            await send({"type": "websocket.close", "code": REFUSED})
            return
        ends = [asyncio.ensure_future(until_gone(receive)), asyncio.ensure_future(self._until_refused(scope))]
        tasks = [*ends, asyncio.ensure_future(self._follow(page)), asyncio.ensure_future(self._watch())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not ends[0].done():
                await send({"type": "websocket.close", "code": REFUSED})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_refused(self, scope: dict[str, Any]) -> None:
        """Until the user has logged out or may not see the cluster any more; or raises what hinders to know it."""
        while "view_cluster" in self._rights:
            await asyncio.sleep(CHECK_INTERVAL)
            self._rights = await rights_now(scope)

    async def _watch(self) -> None:
        """Tell the node that somebody watches, and the page what was before."""
        is_first = True
        while True:
            try:
                samples = await asyncio.to_thread(ask, load_settings(), "watch", timeout=2.0)
                if is_first:
                    await self._say(samples=samples)
                    is_first = False
            except (RaftlogError, OSError) as error:
                await self._say(off=f"This host's node does not answer: {error}")
            await asyncio.sleep(WATCH_INTERVAL)

    async def _follow(self, page: str) -> None:
        settings = load_settings()
        while True:
            try:
                channels = layer()
                channel = await channels.new_channel()
                followed = group(settings.cluster, settings.node_id)
                await channels.group_add(followed, channel)
                try:
                    await self._pass_on(channels, channel, page)
                finally:
                    with contextlib.suppress(Exception):  # else the layer would fill a channel that nobody reads
                        await channels.group_discard(followed, channel)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  (of whichever layer the project uses)
                logger.info(
                    "live updates are off: %s: %s",
                    *(type(error).__name__, error),
                    extra=log_fields("live_off", reason=f"{type(error).__name__}: {error}"),
                )
                await self._say(off=f"The channel layer does not answer ({type(error).__name__}).")
                await asyncio.sleep(RETRY)

    async def _pass_on(self, channels: Any, channel: str, page: str) -> None:
        while True:
            try:
                message = await asyncio.wait_for(channels.receive(channel), SILENCE)
            except TimeoutError:
                await self._say(off="Nothing is heard from the node over the channel layer.")
                continue
            html = await sync_to_async(fragment, thread_sensitive=False)(page, message["report"], self._rights)
            await self._say(html=html, sample=message["sample"])

    async def _say(self, **what: Any) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(what)})


def rights_of(user: Any) -> set[str]:
    """Names of the permissions of raftlog that a user of the admin has."""
    if not (user.is_authenticated and user.is_active and user.is_staff):
        return set()
    return {
        name for name in ("view_cluster", "change_members", "transfer_leadership") if user.has_perm(f"raftlog.{name}")
    }


async def rights_now(scope: dict[str, Any]) -> set[str]:
    """As rights_of(), by what the database says now of the session that the page was opened with."""
    store = import_module(django_settings.SESSION_ENGINE).SessionStore
    user = await get_user({"session": store(scope["session"].session_key)})
    rights: set[str] = await database_sync_to_async(rights_of)(user)
    return rights


async def until_gone(receive: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


def page_of(message: dict[str, Any]) -> str | None:
    try:
        page = json.loads(message.get("text") or "")["page"]
    except (ValueError, KeyError, TypeError):
        return None
    return page if page in FRAGMENTS else None


def fragment(page: str, report: dict[str, Any], rights: set[str]) -> str:
    context = FRAGMENTS[page](report)
    context |= {"may_change": "change_members" in rights, "may_transfer": "transfer_leadership" in rights}
    return render_to_string(f"admin/raftlog/cluster/_{page}.html", context)


def live_application() -> Any:
    """The ASGI application for LIVE_PATH: sessions of the site's own users, origins of its own hosts."""
    return AllowedHostsOriginValidator(AuthMiddlewareStack(LiveConsumer.as_asgi()))


def with_live(application: Any) -> Any:
    """`application`, with LIVE_PATH served beside it. `raft run` does this by itself; others do it in asgi.py."""
    live = live_application()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        is_live = scope["type"] == "websocket" and scope["path"] == LIVE_PATH
        await (live if is_live else application)(scope, receive, send)

    return serve
