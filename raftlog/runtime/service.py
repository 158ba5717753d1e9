"""The service threads: a small pool that carries out what comes in.

Wait for: frames handed over by the consumers, one inbox a peer and one for proposals of callers.
A thread takes *all* that is in one inbox, in order, and no other thread touches that inbox until it is done: a peer's
messages are never reordered, and a follower syncs once for all of them.
Do inside the monitor: the RPC; on a follower the write and sync of the log. Outside: the answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from raftlog.runtime import clock
from raftlog.runtime.consensus_state import ConsensusState, run
from raftlog.runtime.ports import PeerMessage
from raftlog.runtime.proposals import Done

MAX_INBOX: Final = 1024  # messages of one peer waiting for a service thread

Proposal = tuple[list[bytes], float, Done]


class Service:
    """Implements the inbound half of ports.ServicePort. Any thread may call the public methods."""

    def __init__(self, state: ConsensusState) -> None:
        self._state = state
        # Protects the inboxes only; never held together with the monitor.
        self._lock = threading.Lock()
        self._inboxes: dict[str, deque[PeerMessage]] = {}
        self._replies: dict[str, Callable[[PeerMessage], None]] = {}
        self._proposals: list[Proposal] = []
        self._came_at = 0.0  # when the first of them came
        self._calls: list[Callable[[], None]] = []
        # Sources that a thread is to serve ("": proposals and calls); None: the threads end.
        self._ready: SimpleQueue[str | None] = SimpleQueue()
        # Those that are in `_ready`, or being served.
        self._scheduled: set[str] = set()
        self._stopping = False

    def submit(self, message: PeerMessage, arrived_at: float, reply: Callable[[PeerMessage], None]) -> bool:
        peer = message.sender
        self._state.arrived(message, arrived_at)
        with self._lock:
            inbox = self._inboxes.get(peer)
            if inbox is None:
                inbox = self._inboxes[peer] = deque()
            if self._stopping:
                return True  # dropped, as if the process had ended already
            if len(inbox) >= MAX_INBOX:
                return False
            inbox.append(message)
            self._replies[peer] = reply
            is_news = self._is_news(peer)
        if is_news:
            self._ready.put(peer)
        return True

    def propose(self, payloads: list[bytes], timeout: float, done: Done) -> None:
        now = clock.monotonic()
        with self._lock:
            if not self._proposals:
                self._came_at = now
            self._proposals.append((payloads, now + timeout, done))
            is_news = self._is_news("")
        if is_news:
            self._ready.put("")

    def call(self, function: Callable[[], None]) -> None:
        """Have a service thread call `function`, which may enter the monitor; for callers that must not wait for it."""
        with self._lock:
            self._calls.append(function)
            is_news = self._is_news("")
        if is_news:
            self._ready.put("")

    def peer_disconnected(self, peer: str) -> None:
        """The inbound connection of `peer` ended: where it led, pre-vote soon (safe: pre-vote changes nothing)."""
        state = self._state
        with self._lock:
            self._replies.pop(peer, None)
        with state.monitor:
            now = state.monitor.monotonic()
            if state.raft.leader_id == peer:
                state.raft.suspect_leader(peer, now)
            state.proposals.turns.node_lost(peer)
            afterwards = state.settle(now)
        run(afterwards)

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
        self._ready.put(None)

    def main(self, now_doing: Callable[[str], None]) -> None:
        """Body of each service thread. Monitor: takes it."""
        while True:
            now_doing("waiting for requests")
            source = self._ready.get()
            if source is None or self._stopping:
                self._ready.put(None)  # for the next thread
                return
            with self._lock:
                messages, proposals, calls = self._take(source)
                reply = self._replies.get(source, _no_reply)
            now_doing(f"serving {source}" if source else "proposing")
            if proposals:
                self._state.propose(proposals)
            for call in calls:
                call()
            if messages:
                self._state.handle_requests(source, messages, reply)
            with self._lock:
                is_left = bool((self._proposals or self._calls) if source == "" else self._inboxes[source])
                if not is_left:
                    self._scheduled.discard(source)
            if is_left:
                self._ready.put(source)

    def _take(self, source: str) -> tuple[list[PeerMessage], list[Proposal], list[Callable[[], None]]]:
        if source == "":
            proposals, self._proposals = self._proposals, []
            if proposals:
                self._state.measures.queue.observe(clock.monotonic() - self._came_at, len(proposals))
            calls, self._calls = self._calls, []
            return [], proposals, calls
        inbox = self._inboxes[source]
        messages = list(inbox)
        inbox.clear()
        return messages, [], []

    def _is_news(self, source: str) -> bool:
        """Whether a thread is to be told of it: none serves it, or is about to. Lock: held."""
        if source in self._scheduled:
            return False
        self._scheduled.add(source)
        return True


def _no_reply(message: PeerMessage) -> None:
    """The connection that the request came over is gone; its sender asks again."""
