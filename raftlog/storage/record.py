"""One record of a segment file: a batch of entries, a truncation, or a footer (design section 4, rule 7).

A record is a whole number of sectors of 512 bytes. The last byte of each sector is its *marker*: HEAD
on the first sector of a record, REST on the others. New files are zeros, and a sector is written at
most once in a file's life (recovery zeroes what a crash left unfinished), so a zero sector was never
written, a marked one was, and anything else is damage. That is what tells a torn record from a
damaged one without guessing:

- some sector of it was never written: torn, a crash explains it;
- every sector was written and a checksum is wrong: damage, wherever it stands in the file.

The other 511 bytes of each sector, joined, are the header, the body and zeros up to the end:

    header  magic (4: "RL", type, version), CRC32 of magic and the header's rest (4), CRC32 of all that
            follows the header (4), sectors (4), segment sequence (8), position (4: the sector it starts at),
            synced (4: the sector up to which the file was synced before this record was written),
            first_index (8), entries (4), runs (4), configurations (4)
    batch   runs (count 4, term 8, log_time 8 each), payload lengths (4 each), payloads
    truncation   no body: entries from first_index on are void
    footer  see segment.py

All integers are little-endian. `synced` is what proves a hole to be damage: a record that was written
after a sync of everything before it shows that those sectors had been there.
"""

from __future__ import annotations

import struct
import sys
from array import array
from operator import itemgetter
from typing import Final, NamedTuple
from zlib import crc32

from raftlog.consensus.entries import CONFIGURATION, KINDS, EntryBatch, Run
from raftlog.exceptions import InvalidEntry
from raftlog.storage.filesystem import SECTOR_BYTES

BATCH: Final = b"RLB\x01"
TRUNCATION: Final = b"RLT\x01"
FOOTER: Final = b"RLF\x01"

HEAD: Final = b"\xb5"
REST: Final = b"\xca"
SECTOR_DATA: Final = SECTOR_BYTES - 1
MARKERS: Final = slice(SECTOR_DATA, None, SECTOR_BYTES)

_HEADER: Final = struct.Struct("<4sIIIQIIQIII")
_CHECKED: Final = struct.Struct("<IIQIIQIII")  # the header without magic and its own checksum
_PREFIX: Final = struct.Struct("<4sI")
HEADER_BYTES: Final = _HEADER.size
_RUN: Final = struct.Struct("<IQQ")
_FIRST_DATA: Final = SECTOR_DATA - HEADER_BYTES
_KINDS: Final = bytes(sorted(KINDS))
_first_of = itemgetter(0)


class BadRecord(Exception):
    """The bytes are no whole, correct record. The text says what is wrong with them."""


class RecordHeader(NamedTuple):
    """What stands in the first sector of a record; `sectors`, `position` and `synced` count sectors."""

    magic: bytes
    body_crc: int
    sectors: int
    sequence: int
    position: int
    synced: int
    first_index: int
    entries: int
    runs: int
    configurations: int

    @property
    def last_index(self) -> int:
        return self.first_index + self.entries - 1


class BatchBody(NamedTuple):
    """An encoded batch, ready to be framed. `size` is the sum of the parts' lengths in bytes."""

    parts: list[bytes]
    size: int
    configurations: list[int]


def sectors_for(body_bytes: int) -> int:
    """Sectors that a record with a body of so many bytes takes."""
    return -(-(HEADER_BYTES + body_bytes) // SECTOR_DATA)


def encode_batch(batch: EntryBatch) -> BatchBody:
    """Encode the body of a batch. Raises InvalidEntry where the batch breaks a guarantee of its type.

    Works on whole lists instead of entry by entry, for speed (`benchmarks/`, log only).
    """
    payloads = batch.payloads
    try:
        kinds = bytes(map(_first_of, payloads))
    except IndexError:
        kinds = b"\xff"
    if kinds.translate(None, _KINDS) or not _runs_are_valid(batch):
        batch.check()  # names what is wrong
        raise InvalidEntry(f"entries {batch.first_index}-{batch.last_index} are not valid")
    runs = [_RUN.pack(*run) for run in batch.runs]
    lengths = array("I", map(len, payloads))
    size = len(runs) * _RUN.size + 4 * len(lengths) + sum(lengths)
    configurations: list[int] = []
    position = kinds.find(CONFIGURATION)
    while position >= 0:
        configurations.append(batch.first_index + position)
        position = kinds.find(CONFIGURATION, position + 1)
    return BatchBody([*runs, little_endian(lengths), *payloads], size, configurations)


def _runs_are_valid(batch: EntryBatch) -> bool:
    total = term = log_time = 0
    for run in batch.runs:
        if run[0] < 1 or run[1] < term or run[2] < log_time:
            return False
        total += run[0]
        term, log_time = run[1], run[2]
    return total == len(batch.payloads) and batch.first_index >= 1 and (not batch.runs or batch.runs[0].term >= 1)


def little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def from_little_endian(typecode: str, data: bytes) -> array[int]:
    numbers = array(typecode)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def frame(
    magic: bytes,
    parts: list[bytes],
    size: int,
    *,
    sequence: int,
    position: int,
    synced: int,
    first_index: int,
    entries: int = 0,
    runs: int = 0,
    configurations: int = 0,
) -> bytes:
    """The bytes of a record as they stand on disk, markers included. `size`: bytes of all parts."""
    sectors = sectors_for(size)
    body = b"".join((*parts, bytes(sectors * SECTOR_DATA - HEADER_BYTES - size)))
    checked = _CHECKED.pack(
        crc32(body), sectors, sequence, position, synced, first_index, entries, runs, configurations
    )
    header = _PREFIX.pack(magic, crc32(checked, crc32(magic))) + checked
    if sectors == 1:
        return header + body + HEAD
    rest = [body[start : start + SECTOR_DATA] for start in range(_FIRST_DATA, len(body), SECTOR_DATA)]
    return b"".join((header, body[:_FIRST_DATA], HEAD, REST.join(rest), REST))


def parse_header(sector: bytes, *, sequence: int, position: int) -> RecordHeader:
    """Decode the header in a record's first sector. Raises BadRecord where it is not one, or not of this place."""
    magic, header_crc, *rest = _HEADER.unpack_from(sector)
    if sector[SECTOR_DATA:SECTOR_BYTES] != HEAD:
        raise BadRecord(f"the sector's marker is {sector[SECTOR_DATA:SECTOR_BYTES].hex()}, not a record's beginning")
    if crc32(sector[_PREFIX.size : HEADER_BYTES], crc32(magic)) != header_crc:
        raise BadRecord("the checksum of the record's header is wrong")
    if magic not in (BATCH, TRUNCATION, FOOTER):
        raise BadRecord(f"the record is of the unknown type {magic!r}")
    header = RecordHeader(magic, *rest)
    if (header.sequence, header.position) != (sequence, position):
        raise BadRecord(
            f"the record belongs to sector {header.position} of segment {header.sequence}, "
            f"not to sector {position} of segment {sequence}"
        )
    if header.sectors < 1 or header.synced > position:
        raise BadRecord(f"the record's header says {header.sectors} sectors, synced {header.synced}")
    return header


def is_whole(image: bytes) -> bool:
    """Whether every sector of the record was written. Raises BadRecord where one is neither written nor zero."""
    markers = image[MARKERS]
    expected = HEAD + REST * (len(markers) - 1)
    if markers == expected:
        return True
    for number, (found, wanted) in enumerate(zip(markers, expected, strict=True)):
        sector = image[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]
        if found != wanted and sector.strip(b"\0"):
            raise BadRecord(f"sector {number} of the record has the marker {found:#04x} instead of {wanted:#04x}")
    return False


def body_of(header: RecordHeader, image: bytes) -> bytes:
    """The body of a whole record, padding included. Raises BadRecord where its checksum is wrong."""
    if header.sectors == 1:
        body = image[HEADER_BYTES:SECTOR_DATA]
    else:
        data = bytearray(image)
        del data[MARKERS]
        body = bytes(memoryview(data)[HEADER_BYTES:])
    if crc32(body) != header.body_crc:
        raise BadRecord("the checksum of the record's body is wrong")
    return body


def runs_of(header: RecordHeader, body: bytes) -> list[Run]:
    """The runs at the beginning of a batch's body. Raises BadRecord where they do not fit the header."""
    runs = [Run._make(run) for run in _RUN.iter_unpack(body[: header.runs * _RUN.size])]
    if sum(map(_first_of, runs)) != header.entries:
        raise BadRecord(f"the record's runs do not add up to its {header.entries} entries")
    return runs


def decode_batch(header: RecordHeader, image: bytes) -> EntryBatch:
    """The entries of a whole batch record. Raises BadRecord."""
    body = body_of(header, image)
    runs = runs_of(header, body)
    lengths_start = header.runs * _RUN.size
    start = lengths_start + 4 * header.entries
    payloads: list[bytes] = []
    for length in from_little_endian("I", body[lengths_start:start]):
        stop = start + length
        payloads.append(body[start:stop])
        start = stop
    if start > len(body):
        raise BadRecord(f"the payloads of {header.entries} entries do not fit the record")
    return EntryBatch(header.first_index, runs, payloads)
