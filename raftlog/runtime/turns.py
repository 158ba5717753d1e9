"""The cluster's write turn, for the callers of this node (rule 15 of the design; the leader's side: turn_queue.py).

A request goes to whoever leads and is repeated until it is answered, so nothing needs to be remembered over a lost
message or a change of leader. It ends when the turn was granted *and* this node has applied what the leader's log
held then, so that the caller begins from the newest state; or at its deadline.

`Turns`: Monitor: held, in every method. `ClientTurns`: any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from raftlog.consensus.entries import KEY
from raftlog.consensus.raft import Raft
from raftlog.consensus.state import Role
from raftlog.runtime.ports import TurnGranted, TurnReleased, TurnRequest
from raftlog.runtime.turn_queue import Holder, TurnQueue

MAX_TIMEOUT: Final = 600.0  # seconds that a turn may be waited for
KEYS_KEPT: Final = 256  # of one client
REPEAT: Final = 0.5  # seconds after which a request without an answer is sent again

# Called outside the monitor: whether the turn was granted.
TurnDone = Callable[[bool], None]


class _Asked:
    """One request without an answer. `index`: what must be applied here before it is answered (0: not granted yet)."""

    __slots__ = ("deadline", "done", "index", "is_fence", "repeat_at")

    def __init__(self, is_fence: bool, deadline: float, done: TurnDone) -> None:
        self.is_fence = is_fence
        self.deadline = deadline
        self.done = done
        self.index = 0
        self.repeat_at = 0.0


class Turns:
    """What callers of this node ask of the leader, which may be this node."""

    def __init__(self, raft: Raft, queue: TurnQueue) -> None:
        self._raft = raft
        self._queue = queue
        self._asked: dict[bytes, _Asked] = {}
        self._to_send: list[TurnRequest | TurnReleased] = []

    @property
    def is_idle(self) -> bool:
        return not self._asked and not self._to_send

    # From callers

    def take(self, key: bytes, is_fence: bool, deadline: float, done: TurnDone, now: float) -> None:
        asked = self._asked[key] = _Asked(is_fence, deadline, done)
        self._ask(key, asked, now)

    def renew(self, key: bytes, is_fence: bool, now: float) -> None:
        self._request(key, is_fence, True, now)

    def release(self, key: bytes) -> None:
        self._asked.pop(key, None)
        raft = self._raft
        if raft.role is Role.LEADER:
            self._queue.release(key)
        elif raft.leader_id:
            self._to_send.append(TurnReleased(raft.current_term, raft.node_id, raft.leader_id, key))

    def _ask(self, key: bytes, asked: _Asked, now: float) -> None:
        asked.repeat_at = now + REPEAT
        self._request(key, asked.is_fence, False, now)

    def _request(self, key: bytes, is_fence: bool, is_renewal: bool, now: float) -> None:
        raft = self._raft
        if raft.role is Role.LEADER:
            if self._queue.ask(key, raft.node_id, is_fence=is_fence, is_renewal=is_renewal, now=now):
                self._tell_again(key)
        elif raft.leader_id:
            self._to_send.append(
                TurnRequest(raft.current_term, raft.node_id, raft.leader_id, key, is_fence, is_renewal)
            )

    def _tell_again(self, key: bytes) -> None:
        if self._queue.holder is not None:
            self.granted(key, self._queue.holder.index)

    # From the leader, and the wire

    def receive(self, message: TurnRequest | TurnReleased, now: float) -> TurnGranted | None:
        """What another node's callers ask of this server, if it leads. Returns an answer, if there is one already."""
        if self._raft.role is not Role.LEADER:
            return None
        if isinstance(message, TurnReleased):
            self._queue.release(message.key)
            return None
        has_it = self._queue.ask(
            message.key, message.sender, is_fence=message.is_fence, is_renewal=message.is_renewal, now=now
        )
        return self.grant_message(self._queue.holder) if has_it and self._queue.holder is not None else None

    def grant_message(self, holder: Holder) -> TurnGranted:
        raft = self._raft
        return TurnGranted(raft.current_term, raft.node_id, holder.node_id, holder.key, holder.index)

    def granted(self, key: bytes, index: int) -> None:
        """The turn is a caller's of this node: answer it once all up to `index` is applied here."""
        asked = self._asked.get(key)
        # Else it was answered already, and this repeats the grant; or it has given up, and the release is on its way.
        if asked is not None:
            asked.index = index

    def take_messages(self, peer: str) -> list[TurnRequest | TurnReleased]:
        """What the thread of `peer` is to send to it."""
        if not self._to_send:
            return []
        mine = [message for message in self._to_send if message.recipient == peer]
        self._to_send = [message for message in self._to_send if message.recipient != peer]
        return mine

    @property
    def has_messages(self) -> bool:
        return bool(self._to_send)

    def leadership_changed(self, now: float) -> None:
        """Ask the new leader; what the old one granted and is not used yet counts no more."""
        self._to_send.clear()
        for key, asked in self._asked.items():
            asked.index = 0
            self._ask(key, asked, now)

    # Ends

    def take_ready(self, now: float) -> list[tuple[TurnDone, bool]]:
        """Callers that are answered now: it is their turn, or their time is over. Asks again for the others."""
        ready: list[tuple[TurnDone, bool]] = []
        for key, asked in list(self._asked.items()):
            if asked.index and asked.index <= self._raft.last_applied:
                del self._asked[key]
                ready.append((asked.done, True))
            elif asked.deadline <= now:
                self.release(key)
                ready.append((asked.done, False))
            elif asked.repeat_at <= now and not self._raft.leader_id and not asked.is_fence:
                self.release(key)  # without a leader there is no turn, and to wait for one is the proposal's part
                ready.append((asked.done, False))
            elif asked.repeat_at <= now:
                self._ask(key, asked, now)
        return ready

    @property
    def next_deadline(self) -> float:
        return min((min(asked.deadline, asked.repeat_at) for asked in self._asked.values()), default=float("inf"))

    def end_all(self) -> list[tuple[TurnDone, bool]]:
        """The node stops."""
        ended = [(asked.done, False) for asked in self._asked.values()]
        self._asked.clear()
        return ended


class TurnTaker(Protocol):
    """What ClientTurns needs of the server. No method blocks."""

    def ask_turn(self, key: bytes, is_fence: bool, timeout: float, done: TurnDone) -> None: ...

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None: ...

    def release_turn(self, key: bytes) -> None: ...


class ClientTurns:
    """The turns of app processes: each ends with the connection over which it was asked for."""

    def __init__(self, server: TurnTaker) -> None:
        self._server = server
        self._lock = threading.Lock()
        # Of each client the newest keys: older ones have been used, or their lease is over.
        self._keys: dict[object, deque[bytes]] = {}

    def take(self, client: object, arguments: dict[str, Any], done: Callable[[Any], None]) -> None:
        key = _key_of(arguments)
        timeout = float(arguments["timeout"])
        if not 0 <= timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout is {timeout}, the limit is {MAX_TIMEOUT:g} s")
        with self._lock:
            self._keys.setdefault(client, deque(maxlen=KEYS_KEPT)).append(key)
        self._server.ask_turn(key, bool(arguments["fence"]), timeout, done)

    def renew(self, client: object, arguments: dict[str, Any], done: Callable[[Any], None]) -> None:
        self._server.renew_turn(_key_of(arguments), is_fence=bool(arguments["fence"]))
        done(None)

    def release(self, client: object, arguments: dict[str, Any], done: Callable[[Any], None]) -> None:
        """The client does not need this turn, and has not used it."""
        self._server.release_turn(_key_of(arguments))
        done(None)

    def gone(self, client: object) -> None:
        """The connection of this client ended."""
        with self._lock:
            keys = self._keys.pop(client, deque())
        for key in keys:
            self._server.release_turn(key)


def _key_of(arguments: dict[str, Any]) -> bytes:
    """Raises ValueError."""
    key = arguments["key"]
    if not isinstance(key, bytes) or len(key) != KEY.stop - KEY.start:
        raise ValueError("a turn is asked for under a key of 24 bytes: session and sequence")
    return key
