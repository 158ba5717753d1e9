"""The running hash: one value a node for all that it has applied, kept beside the applied index (rule 16).

    value(i) = BLAKE2b-128(msgpack [value(i - 1), index, status, essence, differences])

over the entries that run something: commands, transactions, schema changes. `essence` is what the entry
returned, and of a failure the kind and not the words, which may differ between versions of a library.
`differences` says for each table that it changed by how much the sum of its row hashes moved. Entries of
other kinds, and repeats of an entry, leave the value as it is. It moves in the transaction of the entry,
one entry at a time, so that it does not depend on batches: two nodes at one index with two values differ.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from raftlog.consensus.entries import COMMAND
from raftlog.replication.certify import decode_verdict
from raftlog.replication.write_set import HASH_BYTES
from raftlog.runtime.ports import APPLIED

# Entries whose values a node remembers, at least: a few seconds at full speed, a few megabytes.
REMEMBERED: Final = 16_384

_encode = msgspec.msgpack.Encoder().encode
_failure_decoder = msgspec.msgpack.Decoder(tuple[str, str])
_differences_decoder = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


def essence(kind: int, status: int, result: bytes) -> bytes:
    """What of an entry's result must be alike on all nodes."""
    if status == APPLIED:
        return result
    if kind == COMMAND:
        return _failure_decoder.decode(result)[0].encode()
    return bytes([decode_verdict(result).kind])


def extend(value: bytes, index: int, status: int, essence: bytes, differences: bytes) -> bytes:
    """The running hash after an entry, from the one before it."""
    return blake2b(_encode((value, index, status, essence, differences)), digest_size=HASH_BYTES).digest()


def encode_differences(differences: Iterable[tuple[str, bytes]]) -> bytes:
    """(table, by how much its sum moved), each once; b"" where there are none."""
    found = sorted(differences)
    return _encode(found) if found else b""


def decode_differences(differences: bytes) -> dict[str, bytes]:
    return dict(_differences_decoder.decode(differences)) if differences else {}


class Link(NamedTuple):
    """What one entry did to the running hash."""

    index: int  # type: ignore[assignment]  # a tuple's index(), which nobody misses here
    value: bytes
    differences: bytes


class History:
    """The running hash at each of the last indices. One thread extends it, any thread asks.

    `first_index`: the oldest index whose value is known; `last_index`: the newest.
    """

    def __init__(self, index: int, value: bytes) -> None:
        self._lock = threading.Lock()
        self.first_index = self.last_index = index
        self._indices = [index]
        self._links = [Link(index, value, b"")]

    def extend(self, links: list[Link], last_index: int) -> None:
        """Entries up to `last_index` were applied; `links` are those of them that moved the value."""
        with self._lock:
            self._indices += [link.index for link in links]
            self._links += links
            self.last_index = last_index
            surplus = len(self._links) - 2 * REMEMBERED
            if surplus > 0:
                del self._links[: surplus + REMEMBERED], self._indices[: surplus + REMEMBERED]
                self.first_index = self._indices[0]

    def value_at(self, index: int) -> bytes | None:
        """None where it is not remembered, or not applied yet."""
        link = self._link_at(index)
        return None if link is None else link.value

    def differences_at(self, index: int) -> dict[str, bytes]:
        """What entry `index` did to the tables: {} where it did nothing, or is not remembered."""
        link = self._link_at(index)
        return {} if link is None or link.index != index else decode_differences(link.differences)

    def _link_at(self, index: int) -> Link | None:
        with self._lock:
            if not self.first_index <= index <= self.last_index:
                return None
            return self._links[bisect_right(self._indices, index) - 1]


def first_difference(mine: History, theirs: Callable[[int], bytes | None], differing: int) -> tuple[int, bool]:
    """The first index at which two histories differ, given one at which they do; False: or an older one.

    By halves: a value follows from all before it, so that histories that differ once differ from there on.
    `theirs` gives None where the other node does not remember; the search then begins after that index.
    """
    low, exact = mine.first_index - 1, False  # not known to be alike
    high = differing
    while high - low > 1:
        middle = (low + high) // 2
        there, here = theirs(middle), mine.value_at(middle)
        if there is None or here is None:
            low, exact = middle, False
        elif there == here:
            low, exact = middle, True
        else:
            high = middle
    return high, exact
