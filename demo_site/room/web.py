"""The page's server: a few files, a WebSocket that tells what is the case, and one place to act."""

import asyncio
import importlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autobahn.exception import Disconnected

from demo_site.room.room import Room
from raftlog.transport.server import DaphneServer

PAGE = Path(__file__).parent / "page"
ICON = Path(__file__).parent.parent / "bank" / "static" / "bank" / "icon.svg"
FILES = {
    "/": (PAGE / "index.html", "text/html; charset=utf-8"),
    "/room.css": (PAGE / "room.css", "text/css; charset=utf-8"),
    "/room.js": (PAGE / "room.js", "text/javascript; charset=utf-8"),
    "/icon.svg": (ICON, "image/svg+xml"),
}
INTERVAL = 0.12  # seconds between two views
MAX_BODY = 1_000  # bytes
POLICY = "default-src 'self'; frame-ancestors 'none'"  # its socket is of its own origin too


def serve_page(room: Room, port: int, on_listening: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM. In the main thread."""
    importlib.import_module("daphne.server")  # it decides which reactor the process has
    application = RoomApplication(room)

    def listening(addresses: list[tuple[str, int]]) -> None:
        application.port = addresses[0][1]
        on_listening(f"http://127.0.0.1:{application.port}/")

    server = DaphneServer(application, "127.0.0.1", port, on_listening=listening)
    before = {number: signal.signal(number, lambda *_: server.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RoomApplication:
    """ASGI. It runs in the main thread's event loop, as starting a node must."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.port = 0

    def _is_ours(self, origin: str) -> bool:
        return origin in (f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode(errors="replace")
        if origin and not self._is_ours(origin):
            await refuse(scope, send, "this is a demo for its own page only")
        elif scope["type"] == "websocket":
            await self._tell(receive, send)
        elif scope["method"] == "POST" and scope["path"] == "/act":
            await self._act(receive, send)
        elif scope["method"] == "GET" and scope["path"] in FILES:
            file, kind = FILES[scope["path"]]
            await answer(send, 200, file.read_bytes(), kind)
        else:
            await answer(send, 404, b"there is no such page\n", "text/plain")

    async def _tell(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        gone = asyncio.ensure_future(receive())
        try:
            while not gone.done():
                await send({"type": "websocket.send", "text": json.dumps(self._room.view())})
                await asyncio.wait([gone], timeout=INTERVAL)
        except Disconnected:
            return  # between the look and the send
        finally:
            gone.cancel()

    async def _act(self, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more and len(body) <= MAX_BODY:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            asked = json.loads(body)
            words = self._room.act(str(asked["action"]), str(asked["node"]))
        except (ValueError, KeyError, TypeError) as error:
            await answer(send, 400, json.dumps({"error": str(error)}).encode(), "application/json")
            return
        await answer(send, 200, json.dumps({"done": words}).encode(), "application/json")


async def answer(send: Any, status: int, body: bytes, kind: str) -> None:
    told = {"content-type": kind, "content-security-policy": POLICY, "cache-control": "no-store"}
    headers = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(scope: dict[str, Any], send: Any, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403})
    else:
        await answer(send, 403, f"{text}\n".encode(), "text/plain")
