"""A node process for tests: Daphne and the raft consumers over a service that echoes.

    python -m tests.transport.echo_node '{"node_id": "b", …}'

Prints a line of JSON with its port once it listens; ends when its stdin does. "echo" means: a RequestVote is
answered with a RequestVoteResponse that carries its numbers back, an AppendEntries with the size of its
payloads; a proposal is applied at once, its body the result.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from raftlog.consensus.entries import KEY
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse, RequestVote, RequestVoteResponse
from raftlog.exceptions import NoLeader
from raftlog.runtime.ports import APPLIED, Outcome, PeerMessage
from raftlog.transport.client_messages import not_proposed
from raftlog.transport.handshake import Identity
from raftlog.transport.routing import raft_application
from raftlog.transport.server import DaphneServer, TlsFiles


class EchoService:
    def __init__(self, refuses: bool = False) -> None:
        # Whether every proposal is refused, as by a node without a leader.
        self.refuses = refuses
        self.connected: list[str] = []
        self.disconnected: list[str] = []
        self.arrivals: list[str] = []
        # Proposals whose body starts with b"later" wait until a request "release".
        self.held: list[tuple[list[bytes], Callable[[list[Outcome]], None]]] = []
        # Bodies of every proposal that came in, in order.
        self.proposed: list[str] = []

    def submit(self, message: PeerMessage, arrived_at: float, reply: Callable[[PeerMessage], None]) -> bool:
        if type(message) is RequestVote:
            if message.last_log_index == 666:
                return False
            reply(
                RequestVoteResponse(
                    message.term, message.recipient, message.sender, True, message.pre_vote, "", False, "x"
                )
            )
            self.arrivals.append(f"rv{message.term}")
        elif type(message) is AppendEntries:
            size = message.entries.payload_bytes
            reply(
                AppendEntriesResponse(
                    message.term, message.recipient, message.sender, True, size, 0, 0, message.round, "", 0, 0
                )
            )
            self.arrivals.append(f"ae{size}")
        return True

    def peer_connected(self, peer_id: str) -> None:
        self.connected.append(peer_id)

    def peer_disconnected(self, peer_id: str) -> None:
        self.disconnected.append(peer_id)

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[Outcome]], None]) -> None:
        self.proposed += [payload[33:53].decode() for payload in payloads]
        if self.refuses:
            done([not_proposed(payload[KEY], NoLeader, "none") for payload in payloads])
        elif payloads[0][33:].startswith(b"later"):
            self.held.append((payloads, done))
        elif payloads[0][33:].startswith(b"never"):
            pass
        else:
            threading.Thread(target=self._apply, args=(payloads, done)).start() if len(payloads) > 1 else self._apply(
                payloads, done
            )

    def _apply(self, payloads: list[bytes], done: Callable[[list[Outcome]], None]) -> None:
        done([Outcome(payload[KEY], APPLIED, 1, payload[33:]) for payload in payloads])

    def release(self, arguments: dict[str, Any]) -> int:
        held, self.held = self.held, []
        for payloads, done in held:
            self._apply(payloads, done)
        return len(held)

    def status(self) -> dict[str, Any]:
        return {
            "connected": self.connected,
            "disconnected": self.disconnected,
            "arrivals": self.arrivals,
            "proposed": self.proposed,
        }


async def not_found(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fallback"})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "fallback"})


def main() -> None:
    given = json.loads(sys.argv[1])
    service = EchoService(given.get("refuses", False))
    identity = Identity(
        given.get("node_id", "b"),
        given.get("cluster", "c"),
        [key.encode() for key in given.get("secret_keys", ["secret key of tests"])],
        cluster_id=lambda: given.get("cluster_id", ""),
        incarnation="incarnation-b",
        commands={"buy": [1, 2]},
        vendor="sqlite",
    )
    application = raft_application(
        service,
        identity,
        not_found,
        allow_peer=lambda node_id: node_id != "stranger",
        requests={"release": service.release, "fail": lambda arguments: 1 // 0},
        deferred_requests={
            "deferred": lambda arguments, done: done(arguments),
            "read_index": lambda arguments, done: done({"index": 7, "reason": ""}),
        },
        handshake_timeout=given.get("handshake_timeout", 5.0),
        max_waiting_proposals=given.get("max_waiting_proposals", 1000),
    )
    application.inbound.requests["refusals"] = lambda arguments: application.inbound.refusals.counts
    application.inbound.requests["refused_frames"] = lambda arguments: application.inbound.refusals.frame_counts
    server = DaphneServer(
        application,
        "127.0.0.1",
        given.get("port", 0),
        unix_socket=given.get("unix_socket", ""),
        tls=TlsFiles(*given["tls"]) if "tls" in given else None,
        on_listening=lambda addresses: print(json.dumps({"port": addresses[0][1]}), flush=True),
    )

    def stop_with_stdin() -> None:
        sys.stdin.read()
        server.stop()

    threading.Thread(target=stop_with_stdin, daemon=True).start()
    server.run()
    application.inbound.close()
    print("ended", flush=True)


if __name__ == "__main__":
    main()
