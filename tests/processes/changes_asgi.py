"""A site whose every visitor is signed in and hears of all changes; few messages wait for one that reads slowly."""

from types import SimpleNamespace

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from raftlog.channels import ChangesConsumer  # noqa: E402  (the apps must be ready)


class Changes(ChangesConsumer):
    queue_limit = 20

    def can_subscribe(self, scope, model):
        return True


_sockets = URLRouter([path("changes/", Changes.as_asgi())])


async def signed_in(scope, receive, send):
    await _sockets(scope | {"user": SimpleNamespace(is_authenticated=True)}, receive, send)


application = ProtocolTypeRouter({"http": http, "websocket": signed_in})
