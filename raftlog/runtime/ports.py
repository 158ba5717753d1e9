"""What a node needs from outside: a wire to each peer, a state machine, and callers (Protocols only).

`transport` implements PeerChannel and carries PeerMessages in to ServicePort; `replication`
implements StateMachine and calls Proposer; `node` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.messages import Message, RaftMessage
from raftlog.exceptions import DatabaseReplaced

# Peer messages that are not Raft's: proposals forwarded to the leader


class ForwardProposals(Message, frozen=True, tag="fp"):
    """A node that is not the leader hands payloads to the one it takes for the leader. `term` is its own."""

    request_id: int
    payloads: list[bytes]


class ForwardResponse(Message, frozen=True, tag="fpr"):
    """`first_index` 0: nothing was appended, `reason` says why ("not_leader", "overloaded", "unsupported", …)."""

    request_id: int
    first_index: int
    leader_id: str
    reason: str
    # The payloads (their keys) that a refusal is about; empty: all of the request.
    keys: list[bytes] = []  # msgspec copies it
    # What the callers of "unsupported" are told, and those of "not_now" where that lasts.
    text: str = ""


# The cluster's write turn (rule 15 of the design; turn_queue.py, turns.py). `key` names who asks: the session and
# the sequence under which it is going to propose.


class TurnRequest(Message, frozen=True, tag="tq"):
    """A node asks the leader for the turn, and repeats it until it has an answer.

    `is_renewal`: it was granted, and is needed for longer.
    """

    key: bytes
    is_fence: bool
    is_renewal: bool


class TurnGranted(Message, frozen=True, tag="tg"):
    """The turn is `key`'s, as of the leader's log up to `index`."""

    key: bytes
    index: int


class TurnReleased(Message, frozen=True, tag="tr"):
    """`key` needs the turn no more, whether it has it or waits for it."""

    key: bytes


PeerMessage = RaftMessage | ForwardProposals | ForwardResponse | TurnRequest | TurnGranted | TurnReleased

# Outcomes of proposals

APPLIED = 0  # result: the command's encoded return value
FAILED = 1  # result: msgpack (type name, text): the command raised, alike on every node
REFUSED = 2  # session unknown or expired: not applied now
NOT_PROPOSED = 3  # nothing was done and nothing will be; result: msgpack (exception class name, text)
UNKNOWN = 4  # no answer in time; may be applied, now or later


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """How a proposal ended. `key` is `payload[KEY]`; `index` 0 where it has none."""

    key: bytes
    status: int
    index: int
    result: bytes


class StateMachine(Protocol):
    """Called by the state-machine thread only, outside the monitor; `last_applied` may be read from any thread."""

    # The most entries that apply() is given at once.
    max_entries: int
    # A batch costs several times what an entry costs, so that entries are worth gathering.
    gathers: bool

    @property
    def last_applied(self) -> int:
        """Index of the last entry whose effects are durable with it (0: none). Rebuilt from the database at start."""
        ...

    def apply(self, batch: EntryBatch) -> list[Outcome]:
        """Apply all entries of `batch` (which starts at last_applied + 1) in order, exactly once.

        Returns an outcome for each client entry. Blocks and retries while the database is unavailable.
        Raises ApplyStopped where an entry cannot be applied on this node: nothing from that entry on was.
        """
        ...

    def stop(self) -> None:
        """Any thread: give up waiting for an unavailable database; a blocked apply() then raises ApplyStopped."""
        ...

    def close(self) -> None: ...


class MachineCare(Protocol):
    """What keeps a state machine and its database together. The state-machine thread calls it, outside the monitor."""

    def look_around(self) -> None:
        """Between batches, and where there are none: has anybody else written? Raises DatabaseReplaced."""
        ...

    def recover(self, error: DatabaseReplaced) -> int:
        """The machine's database is not the one that it was: open what is there now. Returns the index applied there.

        Raises ApplyStopped, IdentityMismatch.
        """
        ...

    def caught_up(self) -> None:
        """For the first time since the start, or since recover(), all that is known to be committed is applied."""
        ...

    @property
    def has_image(self) -> bool:
        """Whether an image waits to be installed: its entries are durable, or stand before this node's log."""
        ...

    def install(self, keys: list[bytes]) -> tuple[int, list[Outcome]]:
        """Make the database what the image holds: (index where it stands now, outcomes known of proposals `keys`).

        (0, []): it could not be, and whoever brought it was told.
        """
        ...


class NoCare:
    """For a state machine without a database."""

    def look_around(self) -> None:
        """Nobody else can write it."""

    def recover(self, error: DatabaseReplaced) -> int:
        raise error

    def caught_up(self) -> None:
        """Nobody waits for it."""

    has_image = False

    def install(self, keys: list[bytes]) -> tuple[int, list[Outcome]]:
        return 0, []


class PeerChannel(Protocol):
    """One outgoing connection to one peer. connect() and send() are called by the peer's thread only."""

    @property
    def is_connected(self) -> bool: ...

    def connect(self) -> None:
        """Connect and authenticate. Blocks at most the connect timeout. Raises TransportError, OSError."""
        ...

    def send(self, messages: Sequence[PeerMessage], urgent: Callable[[], Sequence[PeerMessage]]) -> None:
        """Send in order. A message larger than a chunk (256 KiB) travels in chunks; between chunks
        `urgent()` is asked for messages that go first (heartbeats, answers). Blocks until the socket took it
        all. Raises TransportError or OSError when the connection is lost (what was sent may have arrived)."""
        ...

    def close(self) -> None:
        """Thread-safe, idempotent; wakes a blocked send() or connect()."""
        ...


# What a channel calls, from its reader thread: on_message(messages) for the answers that came together, in order;
# on_close(reason) once.
OnMessage = Callable[[Sequence[PeerMessage]], None]
OnClose = Callable[[str], None]
# (peer_id, on_message, on_close) -> channel; the node gives the peer's address at each connect().
ChannelFactory = Callable[[str, OnMessage, OnClose], PeerChannel]


class ServicePort(Protocol):
    """What the consumers hand inbound traffic to. No method blocks; call from any thread."""

    def submit(self, message: PeerMessage, arrived_at: float, reply: Callable[[PeerMessage], None]) -> bool:
        """Queue a peer's authenticated message for a service thread. `arrived_at` is raftlog.runtime.clock's
        monotonic time in seconds. `reply` may be called from any thread, any number of times. False: the queue is full
        (the consumer drops the connection; Raft repeats what matters)."""
        ...

    def peer_connected(self, peer_id: str) -> None: ...

    def peer_disconnected(self, peer_id: str) -> None:
        """The inbound connection of this peer ended: where it led, a hint to pre-vote at once."""
        ...

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[Outcome]], None]) -> None:
        """Propose client payloads through this node (forwarded where it is not the leader, retried over
        leader changes; safe because entries carry session and sequence). `done` is called one or more times, from
        any thread, with outcomes, until each payload has had exactly one; never from inside this call."""
        ...

    def status(self) -> dict[str, Any]:
        """What this node knows, as plain data (see NodeStatus in runtime/status.py)."""
        ...


class Proposer(Protocol):
    """What `replication.propose` needs: the node in this process, or a client of the host's node."""

    def propose(self, payloads: list[bytes], timeout: float, done: Callable[[list[Outcome]], None]) -> None:
        """As ServicePort.propose. Raises NodeUnavailable where the node cannot be reached (nothing was sent).

        A proposer that may wait here, to connect, has a method `may_block()`, which says whether it would now.
        """
        ...

    def read(self, timeout: float, done: Callable[[int, str], None]) -> None:
        """Ask for an index that is safe to read at: applied to this host's database, and not below anything that was
        committed before this call. Does not wait; `done(index, "")`, or `done(0, reason)`, is called once, from any
        thread, perhaps from inside this call. Raises NodeUnavailable."""
        ...

    def take_turn(self, key: bytes, *, is_fence: bool, timeout: float) -> bool:
        """Wait for the cluster's write turn, and until this host's node has applied what came before it.

        False: not granted in time. Raises NodeUnavailable.
        """
        ...

    def renew_turn(self, key: bytes, *, is_fence: bool) -> None:
        """The turn is needed for longer. Does not wait."""
        ...

    def release_turn(self, key: bytes) -> None:
        """The turn is not needed any more. Does not wait."""
        ...

    def status(self) -> dict[str, Any]: ...
