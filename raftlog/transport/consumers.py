"""The inbound side: raw Channels consumers, bytes in and bytes out (design section 6).

They override `__call__`, because the generic dispatch of Channels alone costs 0.15 to 0.2 ms a message. On the
event loop a frame is stamped, authenticated, decoded and handed over; nothing there waits for the node.
Whatever bytes arrive, a consumer ends the connection with a close code and a reason, counts it and
logs it; it does not raise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final

import msgspec
from channels.consumer import AsyncConsumer

from raftlog.consensus.entries import KEY
from raftlog.exceptions import FrameRefused, HandshakeRefused, Overloaded, RaftlogError
from raftlog.log_fields import log_fields
from raftlog.runtime import clock
from raftlog.runtime.ports import Outcome, PeerMessage, ServicePort
from raftlog.transport.client_messages import (
    CLIENT_CODEC,
    Answer,
    ClientMessage,
    Outcomes,
    Propose,
    Request,
    not_proposed,
)
from raftlog.transport.close_codes import (
    BAD_FRAME,
    BROWSER_ORIGIN,
    GOING_AWAY,
    INTERNAL_ERROR,
    OVERLOADED,
    REPLACED,
    TIMEOUT,
    WRONG_NODE,
    close_reason,
)
from raftlog.transport.frames import MAX_MESSAGE_BYTES, PEER_CODEC, Codec
from raftlog.transport.handshake import CLIENT, HANDSHAKE_TIMEOUT, PEER, Identity, RemoteHello, ServerHandshake, Session
from raftlog.transport.outbox import Outbox, Send
from raftlog.transport.refusals import Refusals

logger = logging.getLogger("raftlog.transport")

MAX_REPLIES: Final = 8192  # messages waiting to be sent to one peer
MAX_REQUESTS: Final = 64  # requests of one client being answered
REQUEST_THREADS: Final = 4
MAX_TIMEOUT: Final = 86_400.0  # seconds that a proposal may ask to wait

Receive = Callable[[], Awaitable[dict[str, Any]]]
# A request by name. Blocking ones run in a pool of threads; deferred ones must not block and call back once.
BlockingRequest = Callable[[dict[str, Any]], Any]
DeferredRequest = Callable[[dict[str, Any], Callable[[Any], None]], None]
# A deferred request that is bound to its connection: the first argument stands for it.
BoundRequest = Callable[[object, dict[str, Any], Callable[[Any], None]], None]


@dataclass
class Inbound:
    """What the consumers of one node share. Everything but `refusals` belongs to the event loop's thread."""

    service: ServicePort
    identity: Identity
    allow_peer: Callable[[str], bool] = lambda node_id: True
    max_message_bytes: int = MAX_MESSAGE_BYTES
    # Of one client, without an outcome that was sent.
    max_waiting_proposals: int = 65_536
    handshake_timeout: float = HANDSHAKE_TIMEOUT
    requests: Mapping[str, BlockingRequest] = field(default_factory=dict)
    deferred_requests: Mapping[str, DeferredRequest] = field(default_factory=dict)
    bound_requests: Mapping[str, BoundRequest] = field(default_factory=dict)
    # Called, off the event loop, with what bound requests had as their connection, once that has ended.
    client_gone: Callable[[object], None] | None = None
    # Called, off the event loop, with what a peer says of itself when it connects.
    on_hello: Callable[[RemoteHello], None] | None = None
    refusals: Refusals = field(default_factory=Refusals)

    def __post_init__(self) -> None:
        self.requests = {"status": lambda arguments: self.service.status(), **self.requests}
        # The newest connection of each peer.
        self.peers: dict[str, PeerConsumer] = {}
        self.clients: set[ClientConsumer] = set()
        self.pool = ThreadPoolExecutor(REQUEST_THREADS, "raftlog-request")
        # One thread, so that connected and disconnected arrive in order; they may have to wait for the monitor.
        self._events = ThreadPoolExecutor(1, "raftlog-peer-events")
        self._closed = False

    def tell(self, event: Callable[[Any], None], whom: object) -> None:
        """Call the service about the connection of a peer or client, off the event loop."""
        if not self._closed:
            self._events.submit(event, whom)

    def close(self) -> None:
        """After the server has ended: let the threads go, without waiting for what they may be doing."""
        self._closed = True
        self._events.shutdown(wait=False, cancel_futures=True)
        self.pool.shutdown(wait=False, cancel_futures=True)


class RaftConsumer(AsyncConsumer):  # type: ignore[misc]
    """One inbound connection: handshake, then frames."""

    role: ClassVar[str]
    codec: ClassVar[Codec[Any]]

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.closing = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self._asgi_send = send
        self._client = describe_client(scope)
        await receive()  # websocket.connect
        if any(name == b"origin" for name, _ in scope["headers"]):
            self.inbound.refusals.record(BROWSER_ORIGIN, f"{scope['path']} is not for browsers", self._client)
            await send({"type": "websocket.close", "code": BROWSER_ORIGIN})
            return
        await send({"type": "websocket.accept"})
        try:
            await self._talk(receive, send)
        except (FrameRefused, HandshakeRefused) as error:
            text = error.reason if isinstance(error, HandshakeRefused) else str(error)
            await self.refuse(error.code, text, is_frame=isinstance(error, FrameRefused))
            # Until the close handshake is over (Daphne gives it a second) what still comes in is thrown away.
            while (await receive())["type"] != "websocket.disconnect":
                pass
        except asyncio.CancelledError:
            await self._close(GOING_AWAY, "")
            raise

    async def _talk(self, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.inbound.handshake_timeout):
                session = await self._handshake(receive, send)
        except TimeoutError:
            text = f"the handshake took more than {self.inbound.handshake_timeout:g} s"
            raise HandshakeRefused(TIMEOUT, text) from None
        if session is None:
            return
        self.session = session
        self.outbox: Outbox[Any] = Outbox(session.writer, send, self.outbox_limit(), self.on_sent, self._on_overflow)
        sender = asyncio.create_task(self._send_waiting(self.outbox))
        self.on_open()
        try:
            while (event := await receive())["type"] == "websocket.receive":
                if not self.closing:
                    self.on_frame(_binary(event), clock.monotonic())
        finally:
            self.outbox.close()
            sender.cancel()
            self.on_end()

    async def _handshake(self, receive: Receive, send: Send) -> Session[Any] | None:
        """None: the other side went away."""
        inbound = self.inbound
        handshake = ServerHandshake(
            inbound.identity,
            self.role,
            self.codec,
            allow_peer=inbound.allow_peer,
            max_message_bytes=inbound.max_message_bytes,
        )
        while handshake.session is None:
            event = await receive()
            if event["type"] != "websocket.receive":
                return None
            for answer in handshake.receive(_binary(event)):
                await send({"type": "websocket.send", "bytes": answer})
        return handshake.session

    async def _send_waiting(self, outbox: Outbox[Any]) -> None:
        try:
            await outbox.run()
        except Exception:  # a message that cannot be encoded, say: the other side must not wait for it for ever
            logger.exception("cannot send to %s", self._client, extra=log_fields("send_failed", peer=str(self._client)))
            await self._close(INTERNAL_ERROR, "")

    def _on_overflow(self) -> None:
        refusing = self.refuse(OVERLOADED, f"{self.outbox_limit()} messages wait and are not read")
        self._refusing = asyncio.create_task(refusing)

    async def refuse(self, code: int, detail: str, *, is_frame: bool = False) -> None:
        if not self.closing:
            self.inbound.refusals.record(code, detail, self._client, is_frame=is_frame)
            await self._close(code, detail)

    async def _close(self, code: int, detail: str) -> None:
        self.closing = True
        await self._asgi_send({"type": "websocket.close", "code": code, "reason": close_reason(code, detail)})

    # What the two kinds of connection do differently

    def outbox_limit(self) -> int:
        raise NotImplementedError

    def on_open(self) -> None:
        raise NotImplementedError

    def on_frame(self, frame: bytes, arrived_at: float) -> None:
        """Raises FrameRefused."""
        raise NotImplementedError

    def on_sent(self, messages: Sequence[Any]) -> None:
        raise NotImplementedError

    def on_end(self) -> None:
        raise NotImplementedError


class PeerConsumer(RaftConsumer):
    """The requests of one peer, and the answers to them. A newer connection of the same peer replaces it."""

    role = PEER
    codec = PEER_CODEC
    session: Session[PeerMessage]

    def outbox_limit(self) -> int:
        return MAX_REPLIES

    def on_open(self) -> None:
        inbound, peer = self.inbound, self.session.remote.node_id
        older = inbound.peers.get(peer)
        inbound.peers[peer] = self
        if older is not None:
            self._replacing = asyncio.create_task(older._close(REPLACED, ""))
        if inbound.on_hello is not None:
            inbound.tell(inbound.on_hello, self.session.remote)
        inbound.tell(inbound.service.peer_connected, peer)

    def on_frame(self, frame: bytes, arrived_at: float) -> None:
        submit, reply = self.inbound.service.submit, self.outbox.put
        peer, own = self.session.remote.node_id, self.inbound.identity.node_id
        for message in self.session.reader.messages(frame):
            if message.sender != peer or message.recipient != own:
                raise FrameRefused(
                    f"a message from {message.sender[:40]!r} to {message.recipient[:40]!r} "
                    f"on the connection from {peer!r} to {own!r}",
                    WRONG_NODE,
                )
            if not submit(message, arrived_at, reply):
                raise FrameRefused(f"too many messages of {peer!r} wait for a service thread", OVERLOADED)

    def on_sent(self, messages: Sequence[PeerMessage]) -> None:
        pass

    def on_end(self) -> None:
        inbound, peer = self.inbound, self.session.remote.node_id
        if inbound.peers.get(peer) is self:
            del inbound.peers[peer]
            inbound.tell(inbound.service.peer_disconnected, peer)


class ClientConsumer(RaftConsumer):
    """One app process: its proposals and requests."""

    role = CLIENT
    codec = CLIENT_CODEC
    session: Session[ClientMessage]

    def __init__(self, inbound: Inbound) -> None:
        super().__init__(inbound)
        # Proposals taken whose outcome has not been sent, requests whose answer has not. The loop's thread only.
        self._proposals = 0
        self._requests = 0
        self._is_bound = False  # a bound request was made

    def outbox_limit(self) -> int:
        # Each message that waits ends a proposal or a request, and those are bounded.
        return 2 * (self.inbound.max_waiting_proposals + MAX_REQUESTS)

    def on_open(self) -> None:
        self.inbound.clients.add(self)

    def on_end(self) -> None:
        self.inbound.clients.discard(self)
        if self._is_bound and self.inbound.client_gone is not None:
            self.inbound.tell(self.inbound.client_gone, self)

    def on_frame(self, frame: bytes, arrived_at: float) -> None:
        for message in self.session.reader.messages(frame):
            if type(message) is Propose:
                self._propose(message)
            elif type(message) is Request:
                self._request(message)
            else:
                raise FrameRefused(f"{type(message).__name__} is not for a client to send", BAD_FRAME)

    def on_sent(self, messages: Sequence[ClientMessage]) -> None:
        for message in messages:
            if type(message) is Outcomes:
                self._proposals -= len(message.outcomes)
            else:
                self._requests -= 1

    def _propose(self, message: Propose) -> None:
        if not 0 <= message.timeout <= MAX_TIMEOUT:
            raise FrameRefused(f"timeout is {message.timeout}, the limit is {MAX_TIMEOUT:g} s", BAD_FRAME)
        limit = self.inbound.max_waiting_proposals
        waiting = self._proposals
        # Refused ones count until they are sent, like all others.
        self._proposals += len(message.payloads)
        if self._proposals > limit:
            if waiting > 2 * limit:
                raise FrameRefused(f"{waiting} proposals wait and their outcomes are not read", OVERLOADED)
            text = f"{waiting} proposals of this process are waiting, the limit is {limit}"
            refused = [not_proposed(payload[KEY], Overloaded, text) for payload in message.payloads]
            self.outbox.put(Outcomes(message.request_id, refused))
            return
        self.inbound.service.propose(message.payloads, message.timeout, partial(self._done, message.request_id))

    def _done(self, request_id: int, outcomes: list[Outcome]) -> None:
        """Any thread."""
        self.outbox.put(Outcomes(request_id, outcomes))

    def _request(self, message: Request) -> None:
        inbound, request_id = self.inbound, message.request_id
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            if self._requests > 2 * MAX_REQUESTS:
                raise FrameRefused(f"{self._requests} requests wait, the limit is {MAX_REQUESTS}", OVERLOADED)
            text = f"{MAX_REQUESTS} requests of this process are being answered"
            self.outbox.put(Answer(request_id, b"", Overloaded.__name__, text))
        elif deferred := inbound.deferred_requests.get(message.name):
            self._answer(request_id, partial(deferred, message.arguments, partial(self._result, request_id)))
        elif bound := inbound.bound_requests.get(message.name):
            self._is_bound = True
            self._answer(request_id, partial(bound, self, message.arguments, partial(self._result, request_id)))
        elif request := inbound.requests.get(message.name):
            work = partial(self._blocking, request_id, partial(request, message.arguments))
            inbound.pool.submit(self._answer, request_id, work)
        else:
            self.outbox.put(Answer(request_id, b"", "LookupError", f"this node knows no request {message.name[:80]!r}"))

    def _blocking(self, request_id: int, request: Callable[[], Any]) -> None:
        self._result(request_id, request())

    def _result(self, request_id: int, result: Any) -> None:
        """Any thread."""
        self.outbox.put(Answer(request_id, msgspec.msgpack.encode(result)))

    def _answer(self, request_id: int, work: Callable[[], None]) -> None:
        """Do `work`; the asker hears how it failed."""
        try:
            work()
        except RaftlogError as error:
            self.outbox.put(Answer(request_id, b"", type(error).__name__, str(error)))
        except Exception as error:  # the asker's to see, and logged
            logger.exception(
                "a request of %s failed",
                self._client,
                extra=log_fields("request_failed", peer=str(self._client), reason=str(error)),
            )
            self.outbox.put(Answer(request_id, b"", type(error).__name__, str(error)))


def _binary(event: dict[str, Any]) -> bytes:
    frame = event.get("bytes")
    if frame is None:
        raise FrameRefused("a text frame, where all are binary", BAD_FRAME)
    return frame  # type: ignore[no-any-return]


def describe_client(scope: dict[str, Any]) -> str:
    """Who connects, for the log."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]} on {scope['path']}" if client else f"a local process on {scope['path']}"
