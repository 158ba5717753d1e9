"""A peer thread: one for each other server.

Waits for: its condition (something to send to this peer) or the next heartbeat; for the connection, with backoff.
Does outside the monitor: connects, reads old entries from disk, sends over its WebSocket, pipelined.
The answers come in on the channel's reader thread, which enters the monitor by handle_answers().
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from raftlog.consensus.log import FetchEntries
from raftlog.exceptions import LogCompacted, LogTruncated, TransportError
from raftlog.log_fields import log_fields
from raftlog.runtime.consensus_state import ConsensusState, run
from raftlog.runtime.ports import ChannelFactory, PeerMessage

logger = logging.getLogger("raftlog.transport")

MAX_MESSAGES = 16  # handed to the channel at once
FIRST_BACKOFF, MAX_BACKOFF = 0.02, 1.0  # seconds


class PeerThread:
    """What one peer thread knows. `main` is its body."""

    def __init__(
        self, state: ConsensusState, peer: str, channel_factory: ChannelFactory, jitter: Callable[[], float]
    ) -> None:
        self.peer = peer
        self.connected = False
        self.last_error = ""
        self._state = state
        self._jitter = jitter  # a number in [0, 1)
        self._backoff = FIRST_BACKOFF
        # When the next attempt to connect is due. Changes: after a failed attempt; retry_now().
        self._retry_at = 0.0
        self._work = state.peer_work[peer]
        self._channel = channel_factory(peer, self._on_message, self._on_close)

    def main(self, now_doing: Callable[[str], None]) -> None:
        """Keep a connection and send what there is, until the node stops or the peer is no member any more.

        Monitor: takes it.
        """
        has_sent = False
        while self._has_work_left():
            if not self.connected:
                now_doing("connecting")
                self._connect()
                continue
            messages, fetch = self._collect(now_doing, has_sent)
            has_sent = False
            if fetch is not None:
                now_doing("reading entries from disk")
                messages += self._fetch(fetch)
            if messages:
                now_doing("sending")
                has_sent = True
                try:
                    self._channel.send(messages, self._urgent)
                except (OSError, TransportError) as error:
                    self._on_close(f"{type(error).__name__}: {error}")
        self._channel.close()

    def _has_work_left(self) -> bool:
        with self._state.monitor:
            return self._goes_on()

    def _goes_on(self) -> bool:
        """Monitor: held."""
        return not self._state.stopping and self._state.peer_work.get(self.peer) is self._work

    def close(self) -> None:
        """Wake the thread out of a blocked send or connect. Any thread."""
        self._channel.close()

    def retry_now(self) -> None:
        """The peer has connected to this node, so it can be reached again: end the pause. Monitor: takes it."""
        with self._state.monitor:
            self._backoff = FIRST_BACKOFF
            self._retry_at = 0.0
            self._work.notify()

    def _connect(self) -> None:
        state = self._state
        try:
            self._channel.connect()
        except (OSError, TransportError) as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != self.last_error:
                logger.info(
                    "%s cannot connect to %s: %s",
                    *(state.raft.node_id, self.peer, reason),
                    extra=log_fields("peer_unreachable", node=state.raft.node_id, peer=self.peer, reason=reason),
                )
                self.last_error = reason
            with state.monitor:
                self._back_off()
            return
        with state.monitor:
            if not self._channel.is_connected:
                self._back_off()  # it ended already, and on_close found nothing to end
                return
            self.connected = True
            self.last_error = ""
            self._backoff = FIRST_BACKOFF
            now = state.monitor.monotonic()
            state.raft.peer_reset(self.peer)
            afterwards = state.settle(now, wake=(self.peer,))
        logger.info(
            "%s is connected to %s",
            *(state.raft.node_id, self.peer),
            extra=log_fields("peer_connected", node=state.raft.node_id, peer=self.peer),
        )
        run(afterwards)

    def _back_off(self) -> None:
        """Wait for the next attempt, longer each time; only retry_now() and a stop end it early. Monitor: held."""
        state = self._state
        self._retry_at = state.monitor.monotonic() + self._backoff * (0.5 + self._jitter() / 2)
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)
        while self._goes_on() and state.monitor.monotonic() < self._retry_at:
            self._work.wait_until(self._retry_at)

    def _collect(
        self, now_doing: Callable[[str], None], has_sent: bool
    ) -> tuple[list[PeerMessage], FetchEntries | None]:
        """Wait until there is something to send, and take it. Monitor: takes it.

        has_sent: just now, so that a commit is soon to be told of: wait for that, instead of being woken to.
        """
        state = self._state
        with state.monitor:
            while self._goes_on() and self.connected:
                now = state.monitor.monotonic()
                messages: list[PeerMessage] = []
                while len(messages) < MAX_MESSAGES:
                    message = state.raft.next_message(self.peer, now)
                    if message is None:
                        break
                    if isinstance(message, FetchEntries):
                        return messages, message
                    messages.append(message)
                # A request for the turn goes before the entry that ends it.
                messages += state.turns.take_messages(self.peer)
                forward = state.proposals.take_forward(self.peer)
                if forward is not None:
                    messages.append(forward)
                if messages:
                    return messages, None
                now_doing("waiting for something to send")
                self._work.wait_until(state.raft.next_deadline(self.peer, expecting=has_sent))
                has_sent = False
        return [], None

    def _fetch(self, fetch: FetchEntries) -> list[PeerMessage]:
        state = self._state
        try:
            batch = state.log_store.read(fetch.first_index, fetch.last_index, fetch.max_bytes)
        except (LogCompacted, LogTruncated):
            return []  # the core has moved on, and so will this peer
        with state.monitor:
            message = state.raft.fetched(fetch, batch, state.monitor.monotonic())
        return [message] if message is not None else []

    def _urgent(self) -> list[PeerMessage]:
        """Between two chunks of a large message: heartbeats, votes. Monitor: takes it."""
        state = self._state
        with state.monitor:
            message = state.raft.next_message(self.peer, state.monitor.monotonic(), urgent=True)
        return [message] if message is not None and not isinstance(message, FetchEntries) else []

    def _on_message(self, messages: Sequence[PeerMessage]) -> None:
        self._state.handle_answers(self.peer, messages)

    def _on_close(self, reason: str) -> None:
        """The connection ended; called by the reader thread or by the peer thread itself, maybe by both."""
        state = self._state
        self._channel.close()
        with state.monitor:
            if not self.connected:
                return
            self.connected = False
            self.last_error = reason
            now = state.monitor.monotonic()
            state.raft.peer_reset(self.peer)
            state.proposals.peer_lost(self.peer, now)
            if state.raft.leader_id == self.peer:
                state.raft.suspect_leader(self.peer, now)
            self._work.notify()
            afterwards = state.settle(now)
        logger.info(
            "%s lost its connection to %s: %s",
            *(state.raft.node_id, self.peer, reason),
            extra=log_fields("peer_lost", node=state.raft.node_id, peer=self.peer, reason=reason),
        )
        run(afterwards)
