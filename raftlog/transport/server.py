"""Daphne inside this process: serves an ASGI application until it is told to stop (design section 11).

Importing this module imports neither Daphne nor Twisted: Daphne installs Twisted's asyncio reactor for the
whole process when it is imported, and a reactor runs once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raftlog.exceptions import TransportError
from raftlog.log_fields import log_fields

if TYPE_CHECKING:
    from raftlog.transport.routing import ASGIApplication

logger = logging.getLogger("raftlog.transport")

# Above MAX_FRAME_BYTES, so that a frame somewhat too large is refused by a consumer, in raftlog's words.
MAX_WEBSOCKET_BYTES: Final = 1024 * 1024
PING_INTERVAL: Final = 20  # seconds
PING_TIMEOUT: Final = 30  # seconds
_PEM_END: Final = "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. With `ca`, whoever connects must show a certificate that it signed."""

    certificate: str
    key: str
    ca: str | None = None


class DaphneServer:
    """run() once, in the main thread; stop() from any thread.

    Args:
        application: what to serve.
        host, port: where to listen; port 0 takes a free one.
        unix_socket: path of a Unix socket to serve too, for this user only; one left over from a dead process is
            replaced. "" for none.
        tls: serve wss and https instead of ws and http on host and port.
        on_listening: called in the main thread with [(host, port)] once all is served.
        background: a coroutine function, run on the event loop from then on; it must not raise.
        options: more arguments for daphne.server.Server (http_timeout, root_path, …).
    """

    def __init__(
        self,
        application: ASGIApplication,
        host: str,
        port: int,
        *,
        unix_socket: str = "",
        tls: TlsFiles | None = None,
        on_listening: Callable[[list[tuple[str, int]]], None] = lambda addresses: None,
        background: Callable[[], Coroutine[Any, Any, None]] | None = None,
        **options: Any,
    ) -> None:
        self._application = application
        self._host = host
        self._port = port
        self._unix_socket = unix_socket
        self._tls = tls
        self._on_listening = on_listening
        self._background = background
        self._task: asyncio.Task[None] | None = None
        self._options = options
        self._lock = threading.Lock()
        self._stopping = False
        self._server: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Serve until stop(). Raises TransportError, OSError where it cannot listen."""
        server_class = _server_class()
        options: dict[str, Any] = {
            "ping_interval": PING_INTERVAL,
            "ping_timeout": PING_TIMEOUT,
            "server_name": "raftlog",
            **self._options,
        }
        server = server_class(
            self._application,
            endpoints=["raftlog listens by itself"],
            signal_handlers=False,
            websocket_timeout=-1,
            websocket_max_message_size=MAX_WEBSOCKET_BYTES,
            websocket_max_frame_size=MAX_WEBSOCKET_BYTES,
            ready_callable=self._ready,
            **options,
        )
        server.endpoints = []
        with self._lock:
            if self._stopping:
                return
            self._server = server
        server.run()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Thread-safe, idempotent; also before run()."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            server = self._server
        if server is not None:
            # Not before: who imports it first decides which reactor the process has, and that must be Daphne.
            from twisted.internet import reactor

            reactor.callFromThread(server.stop)

    def _ready(self) -> None:
        """Called by Daphne before the reactor runs, once its factories exist."""
        from raftlog.transport.websocket_protocol import use_direct_protocol

        from twisted.internet import error, reactor  # isort: skip - after Daphne has installed its reactor

        use_direct_protocol(self._server.ws_factory)
        # A frame beyond Daphne's limit gets a close code (1009) and a reason too, instead of a dropped connection.
        self._server.ws_factory.setProtocolOptions(failByDrop=False)
        try:
            addresses = self._listen(reactor)
        except error.CannotListenError as failure:
            self._give_up(TransportError(f"cannot listen on {self._host}:{self._port}: {failure.socketError}"))
        except (OSError, TransportError) as failure:
            self._give_up(failure)
        else:
            reactor.callWhenRunning(self._listening, addresses)

    def _give_up(self, failure: BaseException) -> None:
        from twisted.internet import reactor

        self._error = failure
        reactor.callWhenRunning(self._server.stop)

    def _listening(self, addresses: list[tuple[str, int]]) -> None:
        where = [f"{host}:{port}" for host, port in addresses] + ([self._unix_socket] if self._unix_socket else [])
        logger.info("listening on %s", ", ".join(where), extra=log_fields("listening", about=", ".join(where)))
        self._on_listening(addresses)
        if self._background is not None:
            from twisted.internet import reactor

            # Twisted's startup comes before the event loop runs.
            later: Any = reactor
            later.callLater(0, self._start_background, self._background)

    def _start_background(self, background: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(background())

    def _listen(self, reactor: Any) -> list[tuple[str, int]]:
        factory = self._server.http_factory
        if self._tls is None:
            port = reactor.listenTCP(self._port, factory, interface=self._host)
        else:
            port = reactor.listenSSL(self._port, factory, _tls_options(self._tls), interface=self._host)
        if self._unix_socket:
            remove_stale_socket(self._unix_socket)
            # Only this user may connect, from the moment that the socket is there.
            previous = os.umask(0o177)
            try:
                reactor.listenUNIX(self._unix_socket, factory, mode=0o600)
            finally:
                os.umask(previous)
        host = port.getHost()
        return [(host.host, host.port)]


def remove_stale_socket(path: str) -> None:
    """Remove the socket file of a process that is gone. Raises TransportError where it is in use or no socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise TransportError(f"{path} exists and is no socket; remove it or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise TransportError(f"another process listens on {path}")


def _tls_options(files: TlsFiles) -> Any:
    """Twisted's context factory. Its `ssl:` endpoint strings cannot ask for certificates of clients."""
    from twisted.internet import ssl

    chain = _certificates(files.certificate)
    with open(files.key) as file:
        key = ssl.KeyPair.load(file.read().encode(), 1)  # OpenSSL's FILETYPE_PEM
    return ssl.CertificateOptions(
        privateKey=key.original,
        certificate=chain[0].original,
        extraCertChain=[certificate.original for certificate in chain[1:]],
        trustRoot=ssl.trustRootFromCertificates(_certificates(files.ca)) if files.ca else None,  # type: ignore[no-untyped-call]
    )


def _certificates(path: str) -> list[Any]:
    from twisted.internet import ssl

    with open(path) as file:
        parts = file.read().split(_PEM_END)
    certificates = [ssl.Certificate.loadPEM(f"{part}{_PEM_END}\n".encode()) for part in parts if "BEGIN" in part]
    if not certificates:
        raise TransportError(f"{path} holds no PEM certificate")
    return certificates


class _Gate:
    """Twisted's IPushProducer, to know when a socket takes no more: then a consumer's send() waits."""

    def __init__(self) -> None:
        self.is_open = True
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def pauseProducing(self) -> None:
        self.is_open = False

    def resumeProducing(self) -> None:
        self.is_open = True
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.resumeProducing()


def _server_class() -> Any:
    """Daphne's Server with three things more: the reason of a close, backpressure on sends, a clean end."""
    from daphne.server import Server
    from twisted.internet import defer
    from zope.interface import directlyProvides

    from twisted.internet.interfaces import IPushProducer  # isort: skip - after Daphne has installed its reactor

    class RaftlogServer(Server):  # type: ignore[misc]
        async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
            kind = message["type"]
            if kind == "websocket.close" and message.get("reason") and protocol.state == protocol.STATE_OPEN:
                protocol.sendClose(code=message["code"], reason=message["reason"])
                return
            await super().handle_reply(protocol, message)
            if kind == "websocket.accept":
                protocol.raftlog_gate = gate = _Gate()
                directlyProvides(gate, IPushProducer)
                # The HTTP channel was the producer until the upgrade.
                protocol.transport.unregisterProducer()
                protocol.transport.registerProducer(gate, True)
            elif kind == "websocket.send" and not protocol.raftlog_gate.is_open:
                await protocol.raftlog_gate.wait()

        def kill_all_applications(self) -> Any:
            """As Daphne's, which raises KeyError where an application ended before its connection."""
            running = [
                application
                for details in self.connections.values()
                if (application := details.get("application_instance")) is not None and not application.done()
            ]
            for application in running:
                application.cancel()
            ended = defer.Deferred.fromFuture(asyncio.gather(*running, return_exceptions=True))
            ended.addErrback(lambda failure: None)
            return ended

    return RaftlogServer
