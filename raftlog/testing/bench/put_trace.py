"""In a node: when each entry passed each hand-over, from a caller's frame to the answer. Free unless installed.

Stamps are kept in memory and written down when the file `PATH.wanted` appears, so that no disk but the log's is used
while a benchmark runs. All processes are on one machine, so their monotonic clocks are one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.messages import AppendEntries, AppendEntriesResponse
from raftlog.runtime import clock

LOOK_INTERVAL: Final = 0.1  # seconds between two looks whether the stamps are wanted


class Stamp(msgspec.Struct, array_like=True):
    """Entries `first` to `last` passed `kind` at the moment `at` (seconds); `peer` is whom it was sent to or heard of.

    `first` 0: all up to `last` that had not passed before.
    """

    kind: str
    at: float
    first: int
    last: int
    peer: str = ""


class _Stamps:
    """list.append is atomic: any thread may call."""

    def __init__(self) -> None:
        self.found: list[Stamp] = []

    def __call__(self, kind: str, first: int, last: int, peer: str = "", at: float | None = None) -> None:
        self.found.append(Stamp(kind, clock.monotonic() if at is None else at, first, last, peer))

    def entries(self, kind: str, batch: EntryBatch, peer: str = "", at: float | None = None) -> None:
        if len(batch):
            self(kind, batch.first_index, batch.last_index, peer, at)

    def messages(self, kind: str, messages: Any, peer: str) -> None:
        for message in messages:
            if type(message) is AppendEntries:
                self.entries(kind, message.entries, peer)


def trace_puts(path: Path) -> None:
    """Begin to stamp, in this process, until it ends."""
    stamp = _Stamps()
    _trace_proposals(stamp)
    _trace_log(stamp)
    _trace_leader(stamp)
    _trace_follower(stamp)
    threading.Thread(target=_write_when_wanted, args=(stamp, path), name="bench-trace", daemon=True).start()


def wanted(path: Path) -> Path:
    """Touch this file, and the stamps so far are in `path` once it is gone again."""
    return path.with_name(path.name + ".wanted")


def read_stamps(path: Path) -> list[Stamp]:
    return msgspec.json.decode(path.read_bytes(), type=list[Stamp])


def _write_when_wanted(stamp: _Stamps, path: Path) -> None:
    sign = wanted(path)
    while True:
        clock.sleep(LOOK_INTERVAL)
        if sign.exists():
            found, stamp.found = stamp.found, []
            path.write_bytes(msgspec.json.encode(found))
            sign.unlink()


def _before(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Call `note` with the same arguments before each call of a method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def noted(*arguments: Any, **keywords: Any) -> Any:
        note(*arguments, **keywords)
        return original(*arguments, **keywords)

    setattr(owner, name, noted)


def _trace_proposals(stamp: _Stamps) -> None:
    """The way in and the way out of what a caller of this host proposes."""
    from raftlog.runtime.consensus_state import ConsensusState
    from raftlog.runtime.service import Service
    from raftlog.transport.consumers import ClientConsumer

    came: dict[int, float] = {}  # by the identity of a list of payloads, which lives until it is taken
    propose = ConsensusState.propose

    def note_coming(self: Service, payloads: list[bytes], *rest: Any) -> None:
        came[id(payloads)] = clock.monotonic()

    def traced(self: ConsensusState, batches: list[tuple[list[bytes], float, Any]]) -> None:
        taken = clock.monotonic()
        moments = [(came.pop(id(payloads), taken), len(payloads)) for payloads, _, _ in batches]
        # Nothing else appends while only local callers propose and the leader stays: the benchmark's case.
        first = self.raft.log.last_index + 1
        propose(self, batches)
        for moment, count in moments:
            stamp("came", first, first + count - 1, at=moment)
            stamp("taken", first, first + count - 1, at=taken)
            first += count

    def note_done(self: ClientConsumer, request_id: int, outcomes: Any) -> None:
        for outcome in outcomes:
            stamp("done", outcome.index, outcome.index)

    _before(Service, "propose", note_coming)
    ConsensusState.propose = traced  # type: ignore[method-assign]
    _before(ClientConsumer, "_done", note_done)


def _trace_log(stamp: _Stamps) -> None:
    """Own disk, commit and apply."""
    from raftlog.runtime import apply
    from raftlog.runtime.log_writer import LogWriter
    from raftlog.runtime.measures import Measures

    write, follow, apply_new = LogWriter.write, Measures.follow, apply.apply_new

    def traced_write(self: LogWriter, work: Any) -> bool:
        stamp.entries("write", work.entries)
        succeeded = write(self, work)
        stamp.entries("written", work.entries)
        return succeeded

    def traced_follow(self: Measures, now: float) -> None:
        last_index, commit_index = self._last_index, self._commit_index
        follow(self, now)
        if self._last_index > last_index:
            stamp("appended", last_index + 1, self._last_index)
        if self._commit_index > commit_index:
            stamp("committed", commit_index + 1, self._commit_index)

    def traced_apply(machine: Any, batch: EntryBatch) -> Any:
        stamp.entries("applying", batch)
        outcomes = apply_new(machine, batch)
        stamp.entries("applied", batch)
        return outcomes

    LogWriter.write = traced_write  # type: ignore[method-assign]
    Measures.follow = traced_follow  # type: ignore[method-assign]
    apply.apply_new = traced_apply


def _trace_leader(stamp: _Stamps) -> None:
    """What goes out to followers, and their answers."""
    from raftlog.runtime.consensus_state import ConsensusState
    from raftlog.transport.frames import FrameWriter
    from raftlog.transport.peer_channel import WebSocketPeerChannel

    def note_sending(self: WebSocketPeerChannel, messages: Any, *rest: Any) -> None:
        stamp.messages("sending", messages, self._peer_id)

    def note_answers(self: ConsensusState, peer: str, messages: Any) -> None:
        for message in messages:
            if type(message) is AppendEntriesResponse and message.success:
                stamp("acked", 0, message.match_index, peer)

    frames = FrameWriter.frames

    def traced_frames(self: FrameWriter[Any], messages: Any, *rest: Any) -> Any:
        for frame in frames(self, messages, *rest):
            for message in messages:
                if type(message) is AppendEntries:
                    stamp.entries("encoded", message.entries, message.recipient)
            yield frame

    _before(WebSocketPeerChannel, "send", note_sending)
    _before(ConsensusState, "handle_answers", note_answers)
    FrameWriter.frames = traced_frames  # type: ignore[method-assign, assignment]


def _trace_follower(stamp: _Stamps) -> None:
    """From the frame's arrival to the acknowledgement's leaving for the event loop."""
    from raftlog.runtime.consensus_state import ConsensusState
    from raftlog.runtime.service import Service
    from raftlog.transport.outbox import Outbox

    def note_submit(self: Service, message: Any, arrived_at: float, reply: Any) -> None:
        if type(message) is AppendEntries:
            stamp.entries("arrived", message.entries, at=arrived_at)
            stamp.entries("submitted", message.entries)

    def note_served(self: ConsensusState, peer: str, messages: Any, reply: Any) -> None:
        stamp.messages("served", messages, "")

    def note_answer(self: Outbox[Any], message: Any) -> None:
        if type(message) is AppendEntriesResponse and message.success:
            stamp("answered", 0, message.match_index)

    _before(Service, "submit", note_submit)
    _before(ConsensusState, "handle_requests", note_served)
    _before(Outbox, "put", note_answer)
