"""A state machine that only counts: for measuring the log alone (`raft bench`) and for tests. No database.

It answers every client entry with APPLIED and the result None, and a repeat with the index of the first
copy. It does not know about sessions, and remembers only so many keys: repeats further apart than that are
taken as new. Nothing is durable; after a restart it is given the whole log again.

Plain loops over slices of bytes, because this is the hot path of the pipelined figure (`benchmarks/`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from raftlog.consensus.entries import KEY, OPEN_SESSION, EntryBatch
from raftlog.runtime.ports import APPLIED, Outcome

# In each of two generations: as many as may wait for an outcome on a node, and some 25 MB in all.
REMEMBERED_KEYS: Final = 65_536
NONE_RESULT: Final = msgspec.msgpack.encode(None)


class LogOnlyStateMachine:
    """Implements ports.StateMachine in memory."""

    max_entries = 1 << 20  # as many as there are: an entry costs less than a microsecond
    gathers = False

    def __init__(self) -> None:
        # Index of the last entry applied. Changes: apply(), in the state-machine thread.
        self.last_applied = 0
        # key -> index of its first copy, in two generations, so that forgetting the oldest costs nothing.
        self._recent: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}

    def apply(self, batch: EntryBatch) -> list[Outcome]:
        """Answer the client entries of `batch`. Raises ValueError where it does not start at last_applied + 1."""
        if batch.first_index != self.last_applied + 1:
            raise ValueError(f"entries from {batch.first_index} on given, {self.last_applied} was applied last")
        recent, older = self._recent, self._older
        first_copy, was_seen = recent.setdefault, older.get
        key_slice, result, status = KEY, NONE_RESULT, APPLIED
        outcomes: list[Outcome] = []
        append = outcomes.append
        for index, payload in enumerate(batch.payloads, batch.first_index):
            if payload[0] >= OPEN_SESSION:
                key = payload[key_slice]
                append(Outcome(key, status, first_copy(key, was_seen(key, index) if older else index), result))
        self.last_applied = batch.last_index
        if len(recent) >= REMEMBERED_KEYS:
            self._older, self._recent = recent, {}
        return outcomes

    def stop(self) -> None:
        """It never waits."""

    def close(self) -> None:
        """Nothing to close."""
