"""Entries of the replicated log, as slices of bytes (paper section 5.3; rule 1 of the design).

An entry is a *payload* (bytes, encoded once by its proposer) at an index, with the term in which a
leader received it and the *log time* which that leader gave it. Entries travel from proposer to
disk, wire and peers as an `EntryBatch`: one list of payloads and a few *runs* that say term and log
time. There is no object for each entry, which is what keeps the commit path fast
(`benchmarks/`, pipelined).

Layout of a payload: one byte of kind. Every kind that clients propose goes on with a header of
32 bytes: session (16 bytes), sequence (8 bytes, big-endian), acknowledged_below (8 bytes,
big-endian: every sequence of this session below it has been answered and may be forgotten).
Then the body, whose meaning is the state machine's. `payload[KEY]` is the pair (session, sequence),
by which the state machine recognises a repeat and a waiting caller its answer.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

from raftlog.exceptions import InvalidEntry

NO_OP: Final = 0
CONFIGURATION: Final = 1
OPEN_SESSION: Final = 2
COMMAND: Final = 3
TRANSACTION: Final = 4
SCHEMA: Final = 5
# A block of automatic keys: a transaction that changes no row, and that no write turn holds back.
RESERVE: Final = 6

KINDS: Final = frozenset({NO_OP, CONFIGURATION, OPEN_SESSION, COMMAND, TRANSACTION, SCHEMA, RESERVE})
CLIENT_KINDS: Final = frozenset({OPEN_SESSION, COMMAND, TRANSACTION, SCHEMA, RESERVE})
# What goes to a database as a write set.
WRITE_SET_KINDS: Final = frozenset({TRANSACTION, SCHEMA, RESERVE})

NO_OP_PAYLOAD: Final = bytes([NO_OP])

_HEADER: Final = struct.Struct(">B16sQQ")
HEADER_BYTES: Final = _HEADER.size  # 33: kind and header
KEY: Final = slice(1, 25)  # session and sequence


class ClientHeader(NamedTuple):
    """The first 33 bytes of a payload that a client proposed."""

    kind: int
    session: bytes
    sequence: int
    acknowledged_below: int


def client_payload(kind: int, session: bytes, sequence: int, acknowledged_below: int, body: bytes) -> bytes:
    """Encode what a client proposes. `session` is 16 bytes; sequences count from 1 (0 opens the session)."""
    if kind not in CLIENT_KINDS or len(session) != 16:
        raise InvalidEntry(f"kind {kind} with a session of {len(session)} bytes is no client entry")
    return _HEADER.pack(kind, session, sequence, acknowledged_below) + body


def client_header(payload: bytes) -> ClientHeader:
    """Decode the header of a client's payload. Raises InvalidEntry where it has none."""
    if len(payload) < HEADER_BYTES or payload[0] not in CLIENT_KINDS:
        raise InvalidEntry(f"a payload of {len(payload)} bytes and kind {payload[:1].hex()} has no client header")
    return ClientHeader._make(_HEADER.unpack_from(payload))


def proposal_key(session: bytes, sequence: int) -> bytes:
    """The 24 bytes that stand at `payload[KEY]`."""
    return session + sequence.to_bytes(8, "big")


class EntryId(NamedTuple):
    """Index and term: together they name one entry, and its whole history (Log Matching, §5.3)."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    term: int


class Run(NamedTuple):
    """`count` neighbouring entries of one `term` and one `log_time` (microseconds since the epoch)."""

    count: int  # type: ignore[assignment]  # hides tuple.count
    term: int
    log_time: int


class EntryBatch(msgspec.Struct, array_like=True, frozen=True):
    """Neighbouring entries, `first_index` to `last_index`, both inclusive.

    Guarantees, tested by check():
    1. first_index >= 1; an empty batch has last_index == first_index - 1.
    2. The counts of the runs are positive and add up to len(payloads).
    3. Terms are >= 1 and never go back; log times never go back.
    4. Every payload has at least one byte, and that byte is a known kind.
    """

    first_index: int
    runs: list[Run]
    payloads: list[bytes]

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.payloads) - 1

    @property
    def last_term(self) -> int:
        """Term of the last entry. Raises IndexError on an empty batch."""
        return self.runs[-1].term

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.payloads))

    def __len__(self) -> int:
        return len(self.payloads)

    def term_at(self, index: int) -> int:
        return self._run_at(index).term

    def log_time_at(self, index: int) -> int:
        return self._run_at(index).log_time

    def _run_at(self, index: int) -> Run:
        left = index - self.first_index
        if left >= 0:
            for run in self.runs:
                if left < run.count:
                    return run
                left -= run.count
        raise IndexError(f"index {index} is not in entries {self.first_index}-{self.last_index}")

    def slice(self, first_index: int, last_index: int) -> EntryBatch:
        """Entries `first_index` to `last_index`, inclusive, cut to what this batch holds."""
        start = max(first_index, self.first_index) - self.first_index
        stop = min(last_index, self.last_index) - self.first_index + 1
        if start == 0 and stop == len(self.payloads):
            return self
        runs: list[Run] = []
        position = 0
        for run in self.runs:
            count = min(position + run.count, stop) - max(position, start)
            if count > 0:
                runs.append(Run(count, run.term, run.log_time))
            position += run.count
        return EntryBatch(self.first_index + start, runs, self.payloads[start:stop] if stop > start else [])

    def check(self) -> None:
        """Raise InvalidEntry, naming the guarantee that does not hold. Gateways (disk, wire, tests) call it."""
        if self.first_index < 1:
            raise InvalidEntry(f"first_index {self.first_index} is below 1")
        total, term, log_time = 0, 1, 0
        for run in self.runs:
            if run.count < 1:
                raise InvalidEntry(f"a run of {run.count} entries")
            if run.term < term:
                raise InvalidEntry(f"term goes back from {term} to {run.term}")
            if run.log_time < log_time:
                raise InvalidEntry(f"log time goes back from {log_time} to {run.log_time}")
            total, term, log_time = total + run.count, run.term, run.log_time
        if total != len(self.payloads):
            raise InvalidEntry(f"runs count {total} entries, payloads are {len(self.payloads)}")
        for position, payload in enumerate(self.payloads):
            if not payload or payload[0] not in KINDS:
                raise InvalidEntry(
                    f"entry {self.first_index + position} has the unknown kind {payload[:1].hex() or 'none'}"
                )
