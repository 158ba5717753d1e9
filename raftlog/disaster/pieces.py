"""Committed entries in a file of their own: what follows a backup, so that a restore can go on after it.

    magic (8), then frames: length (4), CRC32 (4), body; little-endian
    the first body: PieceHeader in msgpack; the others: EntryBatch, whose entries follow each other

A piece holds what its header says, whole, or is refused. It names the term of the entry before its first: by that and
by the index one piece follows another, or an image, for certain (Log Matching, §5.3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, TypeVar
from zlib import crc32

import msgspec

from raftlog.consensus.entries import EntryBatch
from raftlog.exceptions import InvalidEntry, RaftlogError

MAGIC: Final = b"RLPIECE\n"
FORMAT: Final = 1
_FRAME: Final = struct.Struct("<II")
MAX_FRAME_BYTES: Final = 2 << 30  # one batch; an entry is at most 1 GiB


class PieceDamaged(RaftlogError):
    """A file of archived entries is not what was written, or not of this version; the text says where."""


class PieceHeader(msgspec.Struct, frozen=True):
    """Fields may be added; `format` says what a reader must know. Indices are inclusive."""

    format: int
    cluster: str
    cluster_id: str
    first_index: int
    last_index: int
    previous_term: int  # of entry first_index - 1
    last_term: int
    first_log_time: int  # microseconds since the epoch
    last_log_time: int


Body = TypeVar("Body", PieceHeader, EntryBatch)


def write_piece(file: BinaryIO, cluster: str, cluster_id: str, previous_term: int, batches: list[EntryBatch]) -> None:
    """`batches` follow each other and hold at least one entry."""
    first, last = batches[0], batches[-1]
    header = PieceHeader(
        FORMAT,
        cluster,
        cluster_id,
        first.first_index,
        last.last_index,
        previous_term,
        last.last_term,
        first.runs[0].log_time,
        last.runs[-1].log_time,
    )
    file.write(MAGIC)
    for body in (header, *batches):
        data = msgspec.msgpack.encode(body)
        file.write(_FRAME.pack(len(data), crc32(data)))
        file.write(data)


def read_piece(file: BinaryIO, name: str) -> tuple[PieceHeader, Iterator[EntryBatch]]:
    """The header, and the entries as they are read. Raises PieceDamaged, the iterator too."""
    if file.read(len(MAGIC)) != MAGIC:
        raise PieceDamaged(f"{name} is no file of archived entries")
    header = _decode(_read_frame(file, name), PieceHeader, name)
    if header.format != FORMAT:
        raise PieceDamaged(f"{name} is of format {header.format}; this version of raftlog reads format {FORMAT}")
    return header, _batches(file, name, header)


def _batches(file: BinaryIO, name: str, header: PieceHeader) -> Iterator[EntryBatch]:
    next_index, term = header.first_index, header.previous_term
    while next_index <= header.last_index:
        batch = _decode(_read_frame(file, name), EntryBatch, name)
        try:
            batch.check()
        except InvalidEntry as error:
            raise PieceDamaged(f"{name}: {error}") from error
        if batch.first_index != next_index or not batch.payloads or batch.runs[0].term < term:
            raise PieceDamaged(f"{name}: entries from {batch.first_index} on cannot follow entry {next_index - 1}")
        next_index, term = batch.last_index + 1, batch.last_term
        yield batch
    if next_index != header.last_index + 1 or term != header.last_term or file.read(1):
        raise PieceDamaged(f"{name} does not end where it says, at entry {header.last_index}")


def _read_frame(file: BinaryIO, name: str) -> bytes:
    start = file.read(_FRAME.size)
    if len(start) == _FRAME.size:
        length, checksum = _FRAME.unpack(start)
        data = file.read(length) if length <= MAX_FRAME_BYTES else b""
        if len(data) == length and crc32(data) == checksum:
            return data
    raise PieceDamaged(f"{name} is cut off, or a checksum in it is wrong")


def _decode(data: bytes, kind: type[Body], name: str) -> Body:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise PieceDamaged(f"{name} cannot be decoded: {error}") from error


def check_follows(header: PieceHeader, last_index: int, last_term: int, name: str) -> None:
    """Raises PieceDamaged where the piece does not follow the entry `last_index` of `last_term`, or begin before it."""
    if header.first_index == last_index + 1 and header.previous_term != last_term:
        raise PieceDamaged(
            f"{name} follows an entry of term {header.previous_term}, and entry {last_index} is of term {last_term}: "
            "it is of another cluster's log"
        )


def slices_after(batches: Iterable[EntryBatch], index: int) -> Iterator[EntryBatch]:
    """The entries after `index`."""
    for batch in batches:
        if batch.last_index > index:
            yield batch.slice(index + 1, batch.last_index)
