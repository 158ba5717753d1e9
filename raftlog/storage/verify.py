"""Every checksum of a node's folder, read anew: all records of all segments, footers, hard state, metadata.

check_directory() is a generator, so that whoever drives it sets the pace (the scrubber), shows progress (`raft
verify`) or stops. It reads, and takes no lock: the folder may be a copy, or belong to a running node. What such a
node writes meanwhile may look like damage for a moment, so a finding counts only once it was found again after a
while (Finding.is_in_use, still_found()).

More is checked here than a start-up reads: the bodies of sealed segments, records that a truncation made void, and
the zeros that follow a footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from raftlog.consensus.entries import CONFIGURATION
from raftlog.exceptions import InvalidEntry, LogDamaged, StorageError
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.hard_state import read_hard_state
from raftlog.storage.layout import HARD_STATE, METADATA, load_metadata, parse_segment_name, segment_name
from raftlog.storage.record import (
    BATCH,
    FOOTER,
    HEAD,
    REST,
    SECTOR_DATA,
    BadRecord,
    RecordHeader,
    body_of,
    decode_batch,
    is_whole,
    parse_header,
)
from raftlog.storage.recovery import list_segments, load_log
from raftlog.storage.segment import ZERO_SECTOR, check_first_sector, footer_place, is_valid_last_sector, load_footer

_CHUNK_SECTORS: Final = 512  # 256 KiB


@dataclass(frozen=True, slots=True)
class Finding:
    """Bytes that are not what was written. `offset` in bytes; None: the file as a whole."""

    path: str
    offset: int | None
    what: str
    # Which entries it affects, in words; "" where it is none.
    entries: str = ""
    # A running owner may have been writing it: to be believed if it is still_found() after a while.
    is_in_use: bool = False

    def __str__(self) -> str:
        place = self.path if self.offset is None else f"{self.path}, offset {self.offset}"
        return f"{place}: {self.what}" + (f" (entries {self.entries})" if self.entries else "")

    @classmethod
    def of(cls, error: LogDamaged, *, is_in_use: bool) -> Finding:
        return cls(error.path, error.offset, error.what or str(error), error.entries, is_in_use)


class Checked(NamedTuple):
    """So many bytes of `path` were read since the last one; `entries` of them were whole."""

    path: str
    size: int
    entries: int


class RecordSeen(NamedTuple):
    """A record of a segment, whole and correct."""

    header: RecordHeader
    size: int
    last_term: int  # of a batch; else 0
    configuration: bytes = b""  # payload of the last CONFIGURATION entry in it, if there is one


def check_directory(filesystem: FileSystem, directory: str) -> Iterator[Finding | Checked]:
    """Read everything; findings as they come, and after each piece what was read."""
    yield from _check_small_files(filesystem, directory)
    try:
        segments = list_segments(filesystem, directory)
    except LogDamaged as error:
        yield Finding.of(error, is_in_use=True)
        segments = sorted(_parsed(filesystem, directory))
    found: set[tuple[str, int | None]] = set()
    for segment in segments:
        path = f"{directory}/{segment_name(*segment)}"
        try:
            for seen in check_segment(filesystem, path, *segment, is_newest=segment == segments[-1]):
                if isinstance(seen, Finding):
                    found.add((seen.path, seen.offset))
                    yield seen
                elif isinstance(seen, RecordSeen):
                    yield Checked(path, seen.size, seen.header.entries if seen.header.magic == BATCH else 0)
                else:
                    yield seen
        except FileNotFoundError:
            continue  # compacted meanwhile; where it was not, the whole does not fit together
        except OSError as error:
            found.add((path, None))
            yield Finding(path, None, f"it cannot be read: {error}")
    yield from _check_together(filesystem, directory, found)


def still_found(filesystem: FileSystem, directory: str, findings: list[Finding]) -> list[Finding]:
    """Those of `findings` that a running owner was not just writing: what is found again, in the same place."""
    files = {finding.path for finding in findings if finding.is_in_use}
    if not files:
        return findings
    again: set[tuple[str, int | None, str]] = set()
    for seen in _check_again(filesystem, directory, files):
        if isinstance(seen, Finding):
            again.add((seen.path, seen.offset, seen.what))
    return [each for each in findings if not each.is_in_use or (each.path, each.offset, each.what) in again]


def _check_again(filesystem: FileSystem, directory: str, files: set[str]) -> Iterator[Finding | Checked | RecordSeen]:
    yield from _check_small_files(filesystem, directory)
    segments = sorted(_parsed(filesystem, directory))
    for segment in segments:
        path = f"{directory}/{segment_name(*segment)}"
        if path in files:
            try:
                yield from check_segment(filesystem, path, *segment, is_newest=segment == segments[-1])
            except FileNotFoundError:
                continue
    yield from _check_together(filesystem, directory, set())


def total_bytes(filesystem: FileSystem, directory: str) -> int:
    """Bytes of all segments, for progress; about what check_directory() reads."""
    total = 0
    for segment in _parsed(filesystem, directory):
        try:
            file = filesystem.open(f"{directory}/{segment_name(*segment)}")
        except FileNotFoundError:
            continue
        total += file.size()
        file.close()
    return total


def _parsed(filesystem: FileSystem, directory: str) -> list[tuple[int, int]]:
    names = map(parse_segment_name, filesystem.list_directory(directory))
    return [name for name in names if name is not None]


def _check_small_files(filesystem: FileSystem, directory: str) -> Iterator[Finding | Checked]:
    try:
        load_metadata(filesystem, directory)
    except FileNotFoundError:
        yield Finding(f"{directory}/{METADATA}", None, "the file is missing")
    except LogDamaged as error:
        yield Finding.of(error, is_in_use=True)
    except StorageError as error:
        yield Finding(f"{directory}/{METADATA}", None, str(error), is_in_use=True)
    path = f"{directory}/{HARD_STATE}"
    try:
        file = filesystem.open(path)
    except FileNotFoundError:
        yield Finding(path, None, "the file is missing; term and vote are lost")
        return
    try:
        read_hard_state(path, file)
    except LogDamaged as error:
        yield Finding.of(error, is_in_use=True)
    finally:
        file.close()


def _check_together(filesystem: FileSystem, directory: str, found: set[tuple[str, int | None]]) -> Iterator[Finding]:
    """What start-up would refuse besides: files that do not fit each other."""
    try:
        load_log(filesystem, directory, writable=False).open_segment.file.close()
    except LogDamaged as error:
        if (error.path, error.offset) not in found:
            yield Finding.of(error, is_in_use=True)
    except OSError as error:
        if not found:
            yield Finding(directory, None, f"a file cannot be read: {error}", is_in_use=True)


# One segment


def check_segment(
    filesystem: FileSystem, path: str, sequence: int, first_index: int, *, is_newest: bool
) -> Iterator[Finding | Checked | RecordSeen]:
    """Every record, in the order of the file, also after damage. Raises OSError, FileNotFoundError."""
    file = filesystem.open(path)
    try:
        yield from _SegmentCheck(path, file, sequence, first_index, is_newest=is_newest).run()
    finally:
        file.close()


class _SegmentCheck:
    """Reads one segment in pieces."""

    def __init__(self, path: str, file: File, sequence: int, first_index: int, *, is_newest: bool) -> None:
        self.path = path
        self.file = file
        self.sequence = sequence
        self.first_index = first_index
        self.is_newest = is_newest
        self.sectors = max(file.size() // SECTOR_BYTES, 2)
        # Where the records end, as far as is known; and where the batches of the footer begin.
        self.end = self.sectors - 1
        self.batches: set[int] = set()
        # The last entry before `position`, in the segment's own words.
        self.last_index = first_index - 1
        self.position = 1
        self._chunk = b""
        self._chunk_position = 0

    def run(self) -> Iterator[Finding | Checked | RecordSeen]:
        try:
            check_first_sector(self.path, self.file, self.sequence, self.first_index)
        except LogDamaged as error:
            yield Finding.of(error, is_in_use=self.is_newest)
        footer_end = 0
        if not self.is_newest:
            try:
                footer_end = self._load_footer()
            except LogDamaged as error:
                yield Finding.of(error, is_in_use=False)
        yield from self._check_records()
        if self.is_newest:
            yield from self._check_tail()
        elif footer_end:
            yield from self._check_zeros(footer_end)

    def _load_footer(self) -> int:
        """Returns the sector behind the footer. Raises LogDamaged."""
        footer = load_footer(self.path, self.file, self.sequence, self.sectors)
        self.batches = set(footer.table.positions)
        last = self.file.pread(SECTOR_BYTES, (self.sectors - 1) * SECTOR_BYTES)
        self.end, count = footer_place(last)
        return self.end + count

    def _check_records(self) -> Iterator[Finding | Checked | RecordSeen]:
        while self.position < self.end:
            sector = self._fetch(self.position, 1)
            if sector == ZERO_SECTOR:
                if self.is_newest:
                    return
                yield self._finding(self.position, "a sector of a record is zero")
                yield self._skip()
                continue
            try:
                seen = self._read_record(sector)
            except _Unfinished:
                return
            except BadRecord as error:
                yield self._finding(self.position, str(error))
                yield self._skip()
                continue
            if seen.header.magic == FOOTER:
                return
            self.last_index = seen.header.last_index
            self.batches.discard(self.position)
            self.position += seen.header.sectors
            yield seen
        for position in sorted(self.batches):
            yield self._finding(position, "the footer names a batch here, and there is none")

    def _read_record(self, sector: bytes) -> RecordSeen:
        """Raises BadRecord; _Unfinished at the end of an open segment."""
        if len(sector) < SECTOR_BYTES:
            raise BadRecord("the file ends here")
        header = parse_header(sector, sequence=self.sequence, position=self.position)
        if self.position + header.sectors > self.sectors - 1:
            raise BadRecord(f"a record of {header.sectors} sectors does not fit the segment")
        image = self._fetch(self.position, header.sectors)
        if not is_whole(image):
            if self.is_newest:
                raise _Unfinished
            raise BadRecord("a sector of the record is zero")
        if header.magic != BATCH:
            body_of(header, image)
            return RecordSeen(header, len(image), 0)
        try:
            batch = decode_batch(header, image)
            batch.check()
        except InvalidEntry as error:
            raise BadRecord(str(error)) from error
        configuration = b""
        if header.configurations:
            configuration = next(payload for payload in reversed(batch.payloads) if payload[0] == CONFIGURATION)
        return RecordSeen(header, len(image), batch.last_term, configuration)

    def _skip(self) -> Checked:
        """Go on behind a bad record whose header is whole, else at the next sector that may begin one."""
        start = self.position
        self.batches.discard(start)
        header = self._header_at(start)
        if header is not None:
            self.last_index = header.last_index
        self.position += header.sectors if header is not None else 1
        while self.position < self.end and self._fetch(self.position, 1)[SECTOR_DATA:] != HEAD:
            self.position += 1
        return Checked(self.path, (self.position - start) * SECTOR_BYTES, 0)

    def _header_at(self, position: int) -> RecordHeader | None:
        """None where none can be read: how long the record was is not known."""
        try:
            return parse_header(self._fetch(position, 1), sequence=self.sequence, position=position)
        except (BadRecord, struct.error):
            return None

    def _check_tail(self) -> Iterator[Finding | Checked]:
        """Behind the last record of an open segment: what a crash leaves there, or what is being written."""
        start = self.position
        for position, sector in self._nonzero_sectors(start, self.sectors - 1):
            if sector is None:
                yield Checked(self.path, position * SECTOR_BYTES, 0)
                continue
            marker = sector[SECTOR_DATA:]
            if marker == REST:
                continue
            try:
                if marker != HEAD:
                    raise BadRecord(f"a sector has the marker {marker.hex()}, which is never written")
                header = parse_header(sector, sequence=self.sequence, position=position)
            except BadRecord as error:
                yield self._finding(position, str(error))
                continue
            if header.synced > start:
                yield self._finding(
                    start, f"the record here is not whole, but was synced before the one at {position * SECTOR_BYTES}"
                )
        last = self.file.pread(SECTOR_BYTES, (self.sectors - 1) * SECTOR_BYTES)
        if last != ZERO_SECTOR and not is_valid_last_sector(last, self.sequence):
            yield self._finding(self.sectors - 1, "the last sector's checksum is wrong")

    def _check_zeros(self, start: int) -> Iterator[Finding | Checked]:
        """Between the footer and the last sector nothing was ever written."""
        for position, sector in self._nonzero_sectors(start, self.sectors - 1):
            if sector is None:
                yield Checked(self.path, position * SECTOR_BYTES, 0)
            else:
                yield Finding(
                    self.path, position * SECTOR_BYTES, "a sector that was never written is not zero; no entry is there"
                )

    def _nonzero_sectors(self, start: int, end: int) -> Iterator[tuple[int, bytes | None]]:
        """(position, sector) of each; and (sectors, None) after each piece that was read."""
        for position in range(start, end, _CHUNK_SECTORS):
            count = min(_CHUNK_SECTORS, end - position)
            chunk = self.file.pread(count * SECTOR_BYTES, position * SECTOR_BYTES)
            if chunk.strip(b"\0"):
                for number in range(count):
                    sector = chunk[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]
                    if sector != ZERO_SECTOR:
                        yield position + number, sector
            yield count, None

    def _fetch(self, position: int, count: int) -> bytes:
        start = (position - self._chunk_position) * SECTOR_BYTES
        size = count * SECTOR_BYTES
        if start < 0 or start + size > len(self._chunk):
            self._chunk = self.file.pread(max(size, _CHUNK_SECTORS * SECTOR_BYTES), position * SECTOR_BYTES)
            self._chunk_position, start = position, 0
        return self._chunk[start : start + size]

    def _finding(self, position: int, what: str) -> Finding:
        entries = f"from {self.last_index + 1} on"
        return Finding(self.path, position * SECTOR_BYTES, what, entries, self.is_newest)


class _Unfinished(Exception):
    """A record of which a sector was never written, at the end of an open segment."""
