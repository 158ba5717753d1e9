"""A key-value state machine in memory, with sessions: what the database is to a node (rules 1 and 5 of the design).

State, sessions with their recorded answers, and the applied index change together, as in one database
transaction. After a power failure the machine may be back at an earlier transaction, as a database
whose last commits were not synced; never between two.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

from raftlog.consensus.entries import (
    CLIENT_KINDS,
    HEADER_BYTES,
    KEY,
    OPEN_SESSION,
    ClientHeader,
    EntryBatch,
    client_header,
)
from raftlog.runtime.ports import APPLIED, REFUSED, Outcome
from raftlog.testing.models import map_step

CHECKPOINT_EVERY: Final = 16  # transactions

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def command_body(key: str, action: str, argument: Any, padding: int = 0) -> bytes:
    """What stands behind the header of a COMMAND entry; `padding` bytes make it larger, and mean nothing."""
    return _encode((key, action, argument, b"\x55" * padding))


def decode_answer(result: bytes) -> Any:
    """The answer in an outcome, with lists as tuples."""
    return _frozen(_decode(result))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


class KeyValueMachine:
    """Implements runtime.ports.StateMachine; survives the crashes of its node."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        # session -> (answers by sequence, every sequence below this one has been forgotten)
        self.sessions: dict[bytes, tuple[dict[int, bytes], int]] = {}
        self.last_applied = 0
        self.last_applied_term = 0
        # Told of each entry just before it takes effect: (index, term, payload).
        self.on_entry: Callable[[int, int, bytes], None] = lambda index, term, payload: None
        self._checkpoint: Checkpoint = ({}, {}, 0, 0)
        self._backups: list[Checkpoint] = [self._checkpoint]
        self._transactions = 0

    def apply(self, batch: EntryBatch) -> list[Outcome]:
        """Apply `batch`, which starts at last_applied + 1, as one transaction."""
        if batch.first_index != self.last_applied + 1:
            raise AssertionError(f"entries from {batch.first_index} after entry {self.last_applied} was applied")
        outcomes: list[Outcome] = []
        index = batch.first_index
        for run in batch.runs:
            for _ in range(run.count):
                payload = batch.payloads[index - batch.first_index]
                self.on_entry(index, run.term, payload)
                if payload[0] in CLIENT_KINDS:
                    outcomes.append(self._apply_client(index, payload))
                index += 1
        self.last_applied = batch.last_index
        self.last_applied_term = batch.last_term
        self._transactions += 1
        if self._transactions % CHECKPOINT_EVERY == 0:
            self._checkpoint = self._copy()
            self._backups = [*self._backups[-2:], self._checkpoint]
        return outcomes

    def _apply_client(self, index: int, payload: bytes) -> Outcome:
        header = client_header(payload)
        key = payload[KEY]
        if header.kind == OPEN_SESSION:
            self.sessions.setdefault(header.session, ({}, 0))
            return Outcome(key, APPLIED, index, b"\xc0")
        session = self.sessions.get(header.session)
        if session is None:
            return Outcome(key, REFUSED, index, b"\xc0")
        answers, forgotten_below = session
        if header.sequence in answers:
            return Outcome(key, APPLIED, index, answers[header.sequence])
        if header.sequence < forgotten_below:
            return Outcome(key, REFUSED, index, b"\xc0")
        answer = self._run(payload)
        self._record(header, answers, forgotten_below, answer)
        return Outcome(key, APPLIED, index, answer)

    def _run(self, payload: bytes) -> bytes:
        key, action, argument, _ = _decode(payload[HEADER_BYTES:])
        answer, after = map_step(self.values.get(key), action, _frozen(argument))
        if after is None:
            self.values.pop(key, None)
        else:
            self.values[key] = after
        return _encode(answer)

    def _record(self, header: ClientHeader, answers: dict[int, bytes], forgotten_below: int, answer: bytes) -> None:
        below = max(forgotten_below, header.acknowledged_below)
        kept = {sequence: result for sequence, result in answers.items() if sequence >= below}
        kept[header.sequence] = answer
        self.sessions[header.session] = (kept, below)

    def read(self, key: str) -> Any:
        return self.values.get(key)

    def lose_power(self, rng: random.Random) -> None:
        """Keep every transaction, or only those up to the last checkpoint."""
        if rng.random() < 0.5:
            values, sessions, applied, term = self._checkpoint
            self.values, self.sessions = dict(values), dict(sessions)
            self.last_applied, self.last_applied_term = applied, term
        self._checkpoint = self._copy()

    # Copies of the whole database, and its losses

    @property
    def durable_index(self) -> int:
        """What is left after a power failure, at the worst."""
        return self._checkpoint[2]

    def make_durable(self) -> int:
        """As a checkpoint of SQLite's log does. Returns durable_index."""
        self._checkpoint = self._copy()
        return self.durable_index

    def content(self) -> Any:
        """For an image; shares nothing that changes."""
        return dict(self.values), dict(self.sessions)

    def install(self, content: Any, index: int, term: int) -> None:
        """Become what content() gave, maybe over a wire; at once, and durably."""
        values, sessions = content
        self.values = {key: _frozen(value) for key, value in values.items()}
        self.sessions = {session: (dict(answers), below) for session, (answers, below) in sessions.items()}
        self.last_applied, self.last_applied_term = index, term
        self._checkpoint = self._copy()

    def lose(self) -> None:
        """Somebody deleted the database."""
        self.install(({}, {}), 0, 0)

    def go_back(self, rng: random.Random) -> None:
        """Somebody put an older copy in its place."""
        values, sessions, applied, term = rng.choice(self._backups)
        self.install((values, sessions), applied, term)

    def _copy(self) -> Checkpoint:
        return dict(self.values), dict(self.sessions), self.last_applied, self.last_applied_term

    def when_free(self, action: Callable[[], None]) -> bool:
        return True

    def start(self) -> None:
        """It was never away."""

    def kill(self) -> None:
        """What a process applied is there."""


# values, sessions, applied index, term there
Checkpoint = tuple[dict[str, Any], dict[bytes, tuple[dict[int, bytes], int]], int, int]
