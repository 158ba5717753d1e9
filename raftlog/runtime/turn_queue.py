"""The cluster's write turn, as the leader knows it (rule 15 of the design).

Whoever has the turn finds no data entry of others between the state that it has seen and its own entry: the leader
holds theirs back, first come first served, in bounded number and for a bounded time. It ends with the holder's
entry, a release, the loss of the holder's connection, or its lease; a change of leader forgets it. It is a hint:
every entry is certified as ever, so an error here costs a conflict and never a wrong result.

A *fence* is the turn of a schema change: it holds back commands too, covers everything that its session proposes, and
ends by release or lease, not with an entry. Entries that it would hold back for too long are refused; an ordinary turn
ends rather than keep others waiting for so long.

Time is an argument. Monitor: held, in every method.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from raftlog.consensus.entries import COMMAND, KEY, SCHEMA, TRANSACTION

LEASE: Final = 3.0  # seconds that a turn lasts without being renewed
REPEATED_WITHIN: Final = 3.0  # seconds after which one that waits is forgotten unless it asks again
HOLD_LIMIT: Final = 5.0  # seconds that an ordinary turn may hold back an entry; twice that, whole, if others wait
FENCE_HOLD_LIMIT: Final = 8.0  # the same of a fence; below the time limit of a proposal, so that the answer is clear
MAX_WAITING: Final = 4_096  # turns asked for
SERVED: Final = 64  # keys that are remembered after their turn
MAX_HELD: Final = 4_096  # payloads held back
MAX_HELD_BYTES: Final = 64 << 20

_SESSION: Final = slice(KEY.start, KEY.start + 16)


class Holder(NamedTuple):
    """Who has the turn, asked by which node, granted as of the log up to which index."""

    key: bytes
    node_id: str
    is_fence: bool
    index: int  # type: ignore[assignment]  # hides tuple.index
    granted_at: float
    lease_until: float


class Waiting(NamedTuple):
    """One that waits for the turn. `asked_at`: when it asked last."""

    node_id: str
    is_fence: bool
    asked_at: float


class HeldBack(NamedTuple):
    """Payloads that came together: from callers of this node (`peer` is ""), or forwarded by `peer` in a request."""

    payloads: list[bytes]
    peer: str
    request_id: int
    since: float


class TurnQueue:
    """The holder, those who wait for the turn, and what is held back."""

    def __init__(self) -> None:
        self.holder: Holder | None = None
        self.waiting: dict[bytes, Waiting] = {}  # in the order in which they are served
        self.held: deque[HeldBack] = deque()
        self._held_count = 0
        self._held_bytes = 0
        # Whose turns have ended: a request that was repeated meanwhile, or a renewal, is not a new one.
        self._served: deque[bytes] = deque(maxlen=SERVED)

    @property
    def is_idle(self) -> bool:
        return self.holder is None and not self.waiting and not self.held

    # Who asks

    def ask(self, key: bytes, node_id: str, *, is_fence: bool, is_renewal: bool, now: float) -> bool:
        """Take a request, its repetition, or a renewal. True: it has the turn already, tell it again."""
        holder = self.holder
        if holder is not None and holder.key == key:
            self.holder = holder._replace(lease_until=now + LEASE)
            return not is_renewal
        if key in self.waiting:
            self.waiting[key] = self.waiting[key]._replace(asked_at=now)
        elif key in self._served:
            return False
        elif is_renewal:
            if is_fence:  # granted by an earlier leader: it goes first
                self.waiting = {key: Waiting(node_id, is_fence, now), **self.waiting}
        elif len(self.waiting) < MAX_WAITING:
            self.waiting[key] = Waiting(node_id, is_fence, now)
        return False

    def release(self, key: bytes) -> None:
        self.waiting.pop(key, None)
        if self.holder is not None and self.holder.key == key:
            self._served.append(key)
            self.holder = None

    def node_lost(self, node_id: str) -> None:
        """The connection from this node ended: so do its turns."""
        if self.holder is not None and self.holder.node_id == node_id:
            self.holder = None
        self.waiting = {key: waiting for key, waiting in self.waiting.items() if waiting.node_id != node_id}

    def forget(self) -> None:
        """The leadership changed: who still wants the turn asks again, what was held back is placed again."""
        self.holder = None
        self.waiting.clear()
        self.held.clear()
        self._held_count = self._held_bytes = 0

    def grant(self, last_index: int, now: float) -> Holder | None:
        """Give the turn to the next one, as of the log up to `last_index`; None: nobody waits."""
        if self.holder is not None or not self.waiting:
            return None
        key = next(iter(self.waiting))
        node_id, is_fence, _ = self.waiting.pop(key)
        self.holder = Holder(key, node_id, is_fence, last_index, now, now + LEASE)
        return self.holder

    # What is held back

    def holds_back(self, payload: bytes) -> bool:
        """Whether this payload has to wait for the turn to end."""
        holder = self.holder
        if holder is None:
            return False
        if holder.is_fence:
            return payload[0] in (TRANSACTION, SCHEMA, COMMAND) and payload[_SESSION] != holder.key[:16]
        return payload[0] in (TRANSACTION, SCHEMA) and payload[KEY] != holder.key

    def has_room(self, payloads: Iterable[bytes]) -> bool:
        sizes = [len(payload) for payload in payloads]
        return self._held_count + len(sizes) <= MAX_HELD and self._held_bytes + sum(sizes) <= MAX_HELD_BYTES

    def hold(self, payloads: list[bytes], peer: str, request_id: int, now: float) -> None:
        self.held.append(HeldBack(payloads, peer, request_id, now))
        self._count(payloads, 1)

    def appended(self, payloads: Iterable[bytes]) -> None:
        """These are in the log now: an ordinary turn ends with its holder's entry."""
        holder = self.holder
        if holder is not None and not holder.is_fence and any(payload[KEY] == holder.key for payload in payloads):
            self._served.append(holder.key)
            self.holder = None

    def next_held(self) -> HeldBack | None:
        """What is to be appended next; None: nothing, or the turn goes on. Call taken() once it was."""
        return self.held[0] if self.held and self.holder is None else None

    def taken(self) -> None:
        self._count(self.held.popleft().payloads, -1)

    def _count(self, payloads: list[bytes], sign: int) -> None:
        self._held_count += sign * len(payloads)
        self._held_bytes += sign * sum(map(len, payloads))

    # Time

    @property
    def deadline(self) -> float:
        """When expire() has something to do."""
        holder = self.holder
        deadlines = [waiting.asked_at + REPEATED_WITHIN for waiting in self.waiting.values()]
        if holder is not None:
            deadlines.append(holder.lease_until)
            if self.held:
                deadlines.append(self.held[0].since + (FENCE_HOLD_LIMIT if holder.is_fence else HOLD_LIMIT))
            if self.waiting and not holder.is_fence:
                deadlines.append(holder.granted_at + 2 * HOLD_LIMIT)
        return min(deadlines, default=float("inf"))

    def expire(self, now: float) -> list[HeldBack]:
        """End what has gone on for too long. Returns what a fence has held back for too long: it is refused."""
        lost = [key for key, waiting in self.waiting.items() if waiting.asked_at + REPEATED_WITHIN <= now]
        for key in lost:
            del self.waiting[key]
        holder = self.holder
        if holder is None:
            return []
        if not holder.is_fence:
            held_too_long = bool(self.held) and self.held[0].since + HOLD_LIMIT <= now
            if held_too_long or (self.waiting and holder.granted_at + 2 * HOLD_LIMIT <= now):
                self.holder = None
        refused: list[HeldBack] = []
        if holder.lease_until <= now:
            self.holder = None
        elif holder.is_fence:
            while self.held and self.held[0].since + FENCE_HOLD_LIMIT <= now:
                refused.append(self.held[0])
                self.taken()
        return refused
