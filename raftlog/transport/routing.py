"""Which path leads where: raftlog's two consumers, and the project's own application for all else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from raftlog.runtime.ports import ServicePort
from raftlog.transport.consumers import ClientConsumer, Inbound, PeerConsumer
from raftlog.transport.handshake import CLIENT_PATH, PEER_PATH, Identity

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApplication = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


class RaftApplication:
    """An ASGI application. `inbound` is what its consumers share (connections, refusals)."""

    def __init__(self, inbound: Inbound, fallback: ASGIApplication) -> None:
        self.inbound = inbound
        self._fallback = fallback
        self._routes: dict[str, ASGIApplication] = {
            PEER_PATH: PeerConsumer.as_asgi(inbound=inbound),
            CLIENT_PATH: ClientConsumer.as_asgi(inbound=inbound),
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "websocket" else None
        await (route or self._fallback)(scope, receive, send)


def raft_application(
    service: ServicePort, identity: Identity, fallback: ASGIApplication, **options: Any
) -> RaftApplication:
    """Serve the raft paths from `service` and everything else from `fallback`. `options`: see Inbound."""
    return RaftApplication(Inbound(service, identity, **options), fallback)
