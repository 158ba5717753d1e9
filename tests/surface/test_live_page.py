"""The socket of a page that follows the cluster: who may have it, for how long, and what it leaves behind."""

import asyncio

import pytest
from channels.layers import InMemoryChannelLayer
from django.contrib.auth import BACKEND_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.cache import SessionStore


class Backend:
    def get_user(self, user_id):
        return Staff()


class Staff:
    is_authenticated = is_active = is_staff = True

    def has_perm(self, name):
        return True


@pytest.fixture
def live(settings, monkeypatch, tmp_path, django_db_blocker):
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.admin",
    ]
    settings.RAFTLOG = {"DATA_DIR": str(tmp_path)}
    from raftlog.admin import live

    channels = InMemoryChannelLayer()
    monkeypatch.setattr(live, "layer", lambda: channels)
    monkeypatch.setattr(live, "CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(live, "ask", lambda *args, **kwargs: [])
    monkeypatch.setattr(live, "fragment", lambda page, report, rights: f"<p>{page}</p>")
    live.channels = channels
    # Channels looks after the connections of the thread in which it asks for rights: one may be open from before.
    with django_db_blocker.unblock():
        yield live


class Page:
    """A browser's side of the socket."""

    def __init__(self, live):
        self.to, self.sent = asyncio.Queue(), []
        for message in ({"type": "websocket.connect"}, {"type": "websocket.receive", "text": '{"page": "cluster"}'}):
            self.to.put_nowait(message)

        async def send(message):
            self.sent.append(message)

        self.task = asyncio.ensure_future(live.LiveConsumer()({"user": Staff()}, self.to.get, send))

    @property
    def closed(self):
        return [message.get("code") for message in self.sent if message["type"] == "websocket.close"]


async def members_of(channels, page):
    while not any(channels.groups.values()):
        assert not page.task.done(), page.task.exception() or page.sent
        await asyncio.sleep(0.01)
    return [name for group in channels.groups.values() for name in group]


def test_who_loses_the_right_while_a_page_is_open_gets_nothing_more(live, monkeypatch):
    user = Staff()

    async def rights_now(scope):
        return live.rights_of(user)

    monkeypatch.setattr(live, "rights_now", rights_now)

    async def main():
        nonlocal user
        page = Page(live)
        await members_of(live.channels, page)
        await asyncio.sleep(0.2)
        assert not page.closed
        user = AnonymousUser()
        await asyncio.wait_for(page.task, 5)
        assert page.closed == [live.REFUSED]

    asyncio.run(main())


def test_a_page_whose_rights_cannot_be_asked_is_closed(live, monkeypatch):
    async def rights_now(scope):
        raise OSError("no database")

    monkeypatch.setattr(live, "rights_now", rights_now)

    async def main():
        page = Page(live)
        await asyncio.wait_for(page.task, 5)
        assert page.closed == [live.REFUSED]

    asyncio.run(main())


def test_a_page_that_is_left_leaves_no_channel_behind(live, monkeypatch):
    async def rights_now(scope):
        return {"view_cluster"}

    monkeypatch.setattr(live, "rights_now", rights_now)

    async def main():
        page = Page(live)
        assert len(await members_of(live.channels, page)) == 1
        page.to.put_nowait({"type": "websocket.disconnect"})
        await asyncio.wait_for(page.task, 5)
        assert not any(live.channels.groups.values())
        assert not page.closed

    asyncio.run(main())


def test_the_session_is_read_anew(live, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Backend"]
    session = SessionStore()
    session[SESSION_KEY], session[BACKEND_SESSION_KEY] = "1", f"{__name__}.Backend"
    session.save()
    scope = {"session": session}
    assert "view_cluster" in asyncio.run(live.rights_now(scope))
    SessionStore(session.session_key).delete()  # logged out, in another tab
    assert asyncio.run(live.rights_now(scope)) == set()
