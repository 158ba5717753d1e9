"""One segment file: its first sector, its records, its footer and its last sector.

    sector 0        magic (8), format (4), sequence (8), first_index (8), sequence of the oldest segment that
                    was needed when it was made (8), sectors in the file (4), CRC32
    sectors 1 …     records (record.py), one after the other: batches and truncations
    footer          written when the segment is sealed: a record with the index of its live batches
    … zeros …
    last sector     zeros while the segment is open; sealed: magic (8), sequence (8), the footer's
                    position and sectors (4 each), CRC32

A file never changes its length, and a sector never changes once written, except that recovery zeroes
what a crash left unfinished at the end of the newest segment. Truncation is a record of its own: it
takes effect with one write of one sector, and nothing that a crash does can bring the entries back.
Only the newest segment is open; those before it were synced, footer included, before it was made.

The footer's body: first_index (8), last_index (8), counts of batches, term runs and configurations
(4 each), then for each batch its first index (8), position (4) and sectors (4), as three columns;
for each term run first index and term (8 each); for each CONFIGURATION entry its index (8).
The live entries of a segment are one range; `first_index` of the footer says where it begins, and
entries of earlier segments from there on are void. The footer's term runs and configurations are
those of the live range.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.state import TermRun
from raftlog.exceptions import LogDamaged
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.layout import FORMAT, TEMPORARY, damaged, segment_name
from raftlog.storage.record import (
    BATCH,
    FOOTER,
    SECTOR_DATA,
    BadRecord,
    body_of,
    decode_batch,
    frame,
    from_little_endian,
    is_whole,
    little_endian,
    parse_header,
    sectors_for,
)

_FIRST_MAGIC: Final = b"RAFTLOG\n"
_LAST_MAGIC: Final = b"RLSEALED"
_FIRST: Final = struct.Struct("<8sIQQQI")
_LAST: Final = struct.Struct("<8sQII")
_CRC: Final = struct.Struct("<I")
_FOOTER: Final = struct.Struct("<QQIII")
_FOOTER_BYTES_PER_BATCH: Final = 16
ZERO_SECTOR: Final = bytes(SECTOR_BYTES)


@dataclass(slots=True)
class BatchTable:
    """Where the live batches of a segment are: three columns, sorted by first index; `last_index` ends the last.

    Only add() changes it, so a reader that holds one sees a consistent log, if perhaps not the newest.
    """

    firsts: array[int]
    positions: array[int]
    sectors: array[int]
    last_index: int

    @classmethod
    def empty(cls, last_index: int) -> BatchTable:
        return cls(array("Q"), array("I"), array("I"), last_index)

    def add(self, first_index: int, last_index: int, position: int, sectors: int) -> None:
        # In this order: what a reader finds by `last_index` is in `firsts`, and what is there has its place.
        self.positions.append(position)
        self.sectors.append(sectors)
        self.firsts.append(first_index)
        self.last_index = last_index

    def cut(self, index: int) -> BatchTable:
        """A copy without the entries from `index` on."""
        keep = bisect_left(self.firsts, index)
        return BatchTable(self.firsts[:keep], self.positions[:keep], self.sectors[:keep], index - 1)

    def find(self, index: int) -> int:
        """Row of the batch that holds `index`; -1 where the first batch begins after it."""
        return bisect_right(self.firsts, index) - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed segment; `first_index` to `last_index` are its live entries (last < first: none)."""

    sequence: int
    path: str
    sectors: int
    first_index: int
    last_index: int

    def cut(self, index: int) -> Segment:
        """The segment without the entries from `index` on."""
        if index > self.last_index:
            return self
        return replace(self, first_index=min(self.first_index, index), last_index=index - 1)


@dataclass(slots=True)
class OpenSegment:
    """The newest segment, which takes the appends. Positions count sectors."""

    sequence: int
    path: str
    file: File
    sectors: int
    # Where its live entries begin; goes down with a truncation below it.
    first_index: int
    table: BatchTable
    # Where the next record goes. Invariant: every sector from here to the end of the file is zero.
    position: int = 1
    # Everything before it is synced. Invariant: synced <= position.
    synced: int = 1
    # Sequence of the oldest segment that is needed; those before it are removed, or about to be.
    oldest: int = 1
    # Upper bounds of what the footer will hold, which reserve its room.
    term_runs: int = 1
    configurations: int = 0

    def has_room(self, sectors: int, batches: int, term_runs: int, configurations: int, spare: int) -> bool:
        """Whether records of so many sectors fit, with a footer for them too, the last sector, and `spare` sectors."""
        footer = footer_sectors(
            len(self.table.firsts) + batches, self.term_runs + term_runs, self.configurations + configurations
        )
        return self.position + sectors + footer + 1 + spare <= self.sectors


@dataclass(frozen=True, slots=True)
class Footer:
    """What a sealed segment says about itself."""

    first_index: int
    last_index: int
    table: BatchTable
    term_runs: list[TermRun]
    configurations: list[int]


def footer_sectors(batches: int, term_runs: int, configurations: int) -> int:
    """Sectors that a footer of so many items takes."""
    return sectors_for(_FOOTER.size + _FOOTER_BYTES_PER_BATCH * batches + 16 * term_runs + 8 * configurations)


# Writing


def create_segment(
    filesystem: FileSystem, directory: str, sequence: int, first_index: int, oldest: int, sectors: int
) -> File:
    """Make a segment under a temporary name, with its first sector durable. Raises OSError and leaves no file."""
    path = f"{directory}/{segment_name(sequence, first_index)}{TEMPORARY}"
    if filesystem.exists(path):
        filesystem.remove(path)
    file = filesystem.create(path, sectors * SECTOR_BYTES)
    try:
        file.pwrite(_checked(_FIRST.pack(_FIRST_MAGIC, FORMAT, sequence, first_index, oldest, sectors)), 0)
        file.sync()
    except OSError:
        file.close()
        filesystem.remove(path)
        raise
    return file


def publish_segment(filesystem: FileSystem, directory: str, sequence: int, first_index: int) -> str:
    """Give a created segment its name, durably. Raises OSError."""
    path = f"{directory}/{segment_name(sequence, first_index)}"
    filesystem.rename(path + TEMPORARY, path)
    filesystem.sync_directory(directory)
    return path


def encode_seal(footer: Footer, *, sequence: int, position: int, synced: int) -> tuple[bytes, bytes]:
    """The footer's record and the last sector."""
    table = footer.table
    numbers = array("Q")
    for run in footer.term_runs:
        numbers.extend((run.first_index, run.term))
    numbers.extend(footer.configurations)
    counts = (len(table.firsts), len(footer.term_runs), len(footer.configurations))
    parts = [
        _FOOTER.pack(footer.first_index, footer.last_index, *counts),
        *map(little_endian, (table.firsts, table.positions, table.sectors, numbers)),
    ]
    record = frame(
        FOOTER,
        parts,
        sum(map(len, parts)),
        sequence=sequence,
        position=position,
        synced=synced,
        first_index=footer.first_index,
    )
    return record, _checked(_LAST.pack(_LAST_MAGIC, sequence, position, len(record) // SECTOR_BYTES))


def _checked(data: bytes) -> bytes:
    """A sector with a checksum of its own, over all of it."""
    data = data.ljust(SECTOR_BYTES - _CRC.size, b"\0")
    return data + _CRC.pack(crc32(data))


def _is_checked(sector: bytes) -> bool:
    return len(sector) == SECTOR_BYTES and _CRC.unpack_from(sector, SECTOR_BYTES - _CRC.size)[0] == crc32(
        sector[: -_CRC.size]
    )


# Reading


def check_first_sector(path: str, file: File, sequence: int, first_index: int) -> tuple[int, int]:
    """Sectors of the file, and the oldest segment that was needed when it was made.

    Raises LogDamaged where the first sector or the length is not what was written.
    """
    sector = file.pread(SECTOR_BYTES, 0)
    if not _is_checked(sector):
        raise damaged(path, "the first sector's checksum is wrong", offset=0, entries=f"from {first_index} on")
    magic, version, *found, oldest, sectors = _FIRST.unpack_from(sector)
    if magic != _FIRST_MAGIC or version != FORMAT or found != [sequence, first_index]:
        raise damaged(
            path, f"the first sector says format {version}, sequence {found[0]}, first index {found[1]}", offset=0
        )
    size = file.size()
    if size != sectors * SECTOR_BYTES:
        raise damaged(
            path,
            f"the file has {size} bytes instead of {sectors * SECTOR_BYTES}",
            offset=min(size, sectors * SECTOR_BYTES),
            entries=f"from {first_index} on",
        )
    return sectors, oldest


def is_valid_last_sector(sector: bytes, sequence: int) -> bool:
    """Whether it is the last sector of a sealed segment."""
    return _is_checked(sector) and _LAST.unpack_from(sector)[:2] == (_LAST_MAGIC, sequence)


def footer_place(last_sector: bytes) -> tuple[int, int]:
    """Position and sectors of the footer, as a valid last sector says."""
    _, _, position, count = _LAST.unpack_from(last_sector)
    return position, count


def load_footer(path: str, file: File, sequence: int, sectors: int) -> Footer:
    """The index of a sealed segment. Raises LogDamaged where it is missing or not what was written."""
    offset = (sectors - 1) * SECTOR_BYTES
    last = file.pread(SECTOR_BYTES, offset)
    if not is_valid_last_sector(last, sequence):
        what = "is missing though a later segment exists" if last == ZERO_SECTOR else "has a wrong checksum"
        raise damaged(path, f"the seal of the segment {what}", offset=offset, entries="of this file and all later ones")
    position, count = footer_place(last)
    offset = position * SECTOR_BYTES
    try:
        image = file.pread(count * SECTOR_BYTES, offset)
        header = parse_header(image[:SECTOR_BYTES], sequence=sequence, position=position)
        if header.magic != FOOTER or header.sectors != count or not is_whole(image):
            raise BadRecord("the footer is not whole")
        return _decode_footer(body_of(header, image))
    except (BadRecord, struct.error) as error:
        raise damaged(path, f"footer: {error}", offset=offset, entries="of this file and all later ones") from error


def _decode_footer(body: bytes) -> Footer:
    first_index, last_index, batches, runs, configurations = _FOOTER.unpack_from(body)
    start = _FOOTER.size
    columns = []
    for typecode, count in (("Q", batches), ("I", batches), ("I", batches), ("Q", 2 * runs), ("Q", configurations)):
        stop = start + count * array(typecode).itemsize
        columns.append(from_little_endian(typecode, body[start:stop]))
        start = stop
    firsts, positions, sectors, run_numbers, configuration_indices = columns
    term_runs = list(map(TermRun, run_numbers[::2], run_numbers[1::2]))
    return Footer(
        first_index,
        last_index,
        BatchTable(firsts, positions, sectors, last_index),
        term_runs,
        list(configuration_indices),
    )


def read_batches(
    path: str, sequence: int, file: File, table: BatchTable, index: int, max_bytes: int
) -> list[EntryBatch]:
    """The batch that holds `index` and its neighbours that follow, at least one, about `max_bytes` in all.

    Each is as it was written: what a later truncation cut off is still in it, up to the next one's beginning.
    Raises LogDamaged where the bytes on disk are not what was written.
    """
    row = table.find(index)
    rows = len(table.firsts)
    if row < 0:
        raise damaged(path, "the segment's index does not hold the entry", entries=f"{index}")
    position = table.positions[row]
    end = position + table.sectors[row]
    stop = row + 1
    # One read for neighbours: their records touch, unless a truncation stands between them.
    while stop < rows and table.positions[stop] == end and (end - position) * SECTOR_DATA < max_bytes:
        end += table.sectors[stop]
        stop += 1
    image = file.pread((end - position) * SECTOR_BYTES, position * SECTOR_BYTES)
    batches = []
    start = 0
    for number in range(row, stop):
        size = table.sectors[number] * SECTOR_BYTES
        at = table.positions[number]
        batches.append(_decode_at(path, sequence, image[start : start + size], at, table.firsts[number]))
        start += size
    return batches


def _decode_at(path: str, sequence: int, image: bytes, position: int, first_index: int) -> EntryBatch:
    try:
        if len(image) < SECTOR_BYTES:
            raise BadRecord("the file ends before the record")
        header = parse_header(image[:SECTOR_BYTES], sequence=sequence, position=position)
        if header.magic != BATCH or header.first_index != first_index or header.sectors * SECTOR_BYTES != len(image):
            raise BadRecord("another record stands here than the segment's index says")
        if not is_whole(image):
            raise BadRecord("a sector of the record is zero")
        return decode_batch(header, image)
    except BadRecord as error:
        raise record_damaged(path, position, str(error), f"from {first_index} on") from error


def record_damaged(path: str, position: int, what: str, entries: str) -> LogDamaged:
    return damaged(path, what, offset=position * SECTOR_BYTES, entries=entries)
