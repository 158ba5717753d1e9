"""Start-up of the log: read the footers, scan the newest segment, cut a torn tail, refuse damage (rule 7).

What a crash can leave behind, and what is done about it:

- a file under a temporary name: removed;
- the newest segment ends in a record of which some sectors were never written, or in later records of
  the same, never finished sync: nobody was told that they are durable, so they are cut (zeroed), and
  reported;
- segments older than the base (base.py) says the log needs: their removal was under way; they are removed;
- no segment that the base says is needed: the log was being reset; it begins anew after its base;
- a footer, whole or not, on the newest segment: the crash came before its successor; it is zeroed and
  the segment goes on as the open one;
- records that a killed process wrote but did not sync: they are written anew and synced before anyone
  is told of them. (Written anew, because a page that a failed sync left behind counts as clean.)

Everything else is damage: LogDamaged, and nothing is changed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from raftlog.consensus.state import TermRun
from raftlog.exceptions import LogDamaged
from raftlog.storage.base import BaseFile, open_base
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.layout import TEMPORARY, damaged, parse_segment_name, segment_name
from raftlog.storage.record import (
    FOOTER,
    HEAD,
    REST,
    SECTOR_DATA,
    TRUNCATION,
    BadRecord,
    RecordHeader,
    body_of,
    decode_batch,
    encode_batch,
    is_whole,
    parse_header,
    runs_of,
)
from raftlog.storage.segment import (
    ZERO_SECTOR,
    BatchTable,
    OpenSegment,
    Segment,
    check_first_sector,
    create_segment,
    is_valid_last_sector,
    load_footer,
    publish_segment,
    record_damaged,
)

_CHUNK_SECTORS: Final = 2048  # 1 MiB
_ZEROS: Final = bytes(_CHUNK_SECTORS * SECTOR_BYTES)


@dataclass(slots=True)
class LogContents:
    """What a log's segments hold, as recovery finds it and the writer goes on with it; no payloads.

    The first segment may begin before the log does: its entries up to the base are not the log's any more.
    """

    sealed: list[Segment] = field(default_factory=list)
    term_runs: list[TermRun] = field(default_factory=list)
    configurations: list[int] = field(default_factory=list)

    def cut(self, index: int) -> None:
        """Forget the entries from `index` on."""
        for number in range(len(self.sealed) - 1, -1, -1):
            if self.sealed[number].last_index < index and self.sealed[number].first_index <= index:
                break
            self.sealed[number] = self.sealed[number].cut(index)
        while self.term_runs and self.term_runs[-1].first_index >= index:
            self.term_runs.pop()
        while self.configurations and self.configurations[-1] >= index:
            self.configurations.pop()

    def forget_below(self, index: int, last_index: int) -> None:
        """Forget the entries before `index`, in a log that ends at `last_index`."""
        if index > last_index:
            self.term_runs, self.configurations = [], []
            return
        number = bisect_right(self.term_runs, index, key=lambda run: run.first_index) - 1
        if number >= 0:
            first = TermRun(index, self.term_runs[number].term)
            self.term_runs = [first, *self.term_runs[number + 1 :]]
        del self.configurations[: bisect_left(self.configurations, index)]

    def add_run(self, first_index: int, term: int) -> bool:
        """Note that entries from `first_index` on have `term`. False where the term would go back."""
        if not self.term_runs or self.term_runs[-1].term < term:
            self.term_runs.append(TermRun(first_index, term))
        return self.term_runs[-1].term == term


@dataclass(slots=True)
class RecoveryReport:
    """What was done at start-up that an operator may want to know. `torn` is None where nothing was cut."""

    torn: str | None = None
    segments: int = 0
    scanned_bytes: int = 0


@dataclass(slots=True)
class LoadedLog:
    contents: LogContents
    open_segment: OpenSegment
    base: BaseFile
    report: RecoveryReport


@dataclass(slots=True)
class _Tail:
    """What lies behind the last whole record: sectors from the scan's end up to `end` are not all zero."""

    end: int
    is_sealed: bool
    torn: bool


def list_segments(filesystem: FileSystem, directory: str) -> list[tuple[int, int]]:
    """(sequence, first index) of each segment, in order. Raises LogDamaged where one is missing or doubled."""
    found = sorted(filter(None, map(parse_segment_name, filesystem.list_directory(directory))))
    for (before, first_index), (sequence, _) in pairwise(found):
        if sequence != before + 1:
            what = f"segment {before + 1} is missing" if sequence > before else f"there are two segments {sequence}"
            raise damaged(directory, f"{what}; the segments must count up without gaps", entries=f"after {first_index}")
    return found


def load_log(filesystem: FileSystem, directory: str, *, writable: bool) -> LoadedLog:
    """Load the log of a directory that has at least one segment.

    With `writable`, what a crash left unfinished is completed or removed, and everything found is durable on return.
    Without, nothing is changed, so that it can be called beside the owner.
    Raises LogDamaged, OSError.
    """
    if writable:
        for name in filesystem.list_directory(directory):
            if name.endswith(TEMPORARY):
                filesystem.remove(f"{directory}/{name}")
        filesystem.sync_directory(directory)  # a killed process may have created or renamed without it
    names = list_segments(filesystem, directory)
    if not names:
        raise damaged(directory, "there is no segment of the log", entries="all")
    base = open_base(filesystem, directory, first_sequence=names[0][0], writable=writable)
    try:
        return _load_segments(filesystem, directory, base, names, writable=writable)
    except BaseException:
        base.close()
        raise


def _load_segments(
    filesystem: FileSystem, directory: str, base: BaseFile, names: list[tuple[int, int]], *, writable: bool
) -> LoadedLog:
    oldest = base.record.oldest
    if names[0][0] > oldest:
        raise damaged(directory, f"segment {oldest} is missing; the log begins in it", entries="it held")
    unneeded = [name for name in names if name[0] < oldest]
    needed = names[len(unneeded) :]
    if not needed:
        if not writable:
            return _before_reset(filesystem, directory, base, names[-1])
        needed = [_begin_anew(filesystem, directory, base, names[-1])]
    contents = LogContents()
    expected = 0
    for sequence, first_index in needed[:-1]:
        expected = _load_sealed(filesystem, directory, contents, sequence, first_index, expected)
    sequence, first_index = needed[-1]
    path = f"{directory}/{segment_name(sequence, first_index)}"
    file = filesystem.open(path, writable=writable)
    try:
        sectors, oldest_then = check_first_sector(path, file, sequence, first_index)
        _check_succession(path, first_index, expected)
        scan = _Scan(path, file, sequence, sectors, first_index, contents)
        tail = scan.run()
        _check_base(base, contents, scan.segment, oldest_then)
        if writable:
            _repair(scan, tail)
            # Oldest first, one by one, as in compact_to().
            remove_segments(filesystem, directory, [f"{directory}/{segment_name(*name)}" for name in unneeded])
    except BaseException:
        file.close()
        raise
    report = RecoveryReport(segments=len(needed), scanned_bytes=scan.segment.position * SECTOR_BYTES)
    if tail.torn:
        report.torn = (
            f"{path}, offset {scan.segment.position * SECTOR_BYTES}: an unfinished write after entry "
            f"{scan.segment.table.last_index} was cut off; a crash before its sync explains it, and nobody was "
            "told that it was durable"
        )
    return LoadedLog(contents, scan.segment, base, report)


def _begin_anew(filesystem: FileSystem, directory: str, base: BaseFile, last: tuple[int, int]) -> tuple[int, int]:
    """Make the first segment of a log that was being reset, as long as the `last` of those before. Raises OSError."""
    old = filesystem.open(f"{directory}/{segment_name(*last)}")
    try:
        sectors = max(old.size() // SECTOR_BYTES, 8)
    finally:
        old.close()
    sequence, first_index = base.record.oldest, base.record.base.index + 1
    create_segment(filesystem, directory, sequence, first_index, sequence, sectors).close()
    publish_segment(filesystem, directory, sequence, first_index)
    return sequence, first_index


def _before_reset(filesystem: FileSystem, directory: str, base: BaseFile, last: tuple[int, int]) -> LoadedLog:
    """For a reader of a log that is being reset: it is empty. The `last` segment stands in for the one to come."""
    path = f"{directory}/{segment_name(*last)}"
    first_index = base.record.base.index + 1
    file = filesystem.open(path)
    segment = OpenSegment(
        last[0], path, file, file.size() // SECTOR_BYTES, first_index, BatchTable.empty(first_index - 1)
    )
    return LoadedLog(LogContents(), segment, base, RecoveryReport())


def _check_base(base: BaseFile, contents: LogContents, newest: OpenSegment, oldest_then: int) -> None:
    """Whether the log goes on where the base says. Raises LogDamaged."""
    record, last_index = base.record, newest.table.last_index
    first_index = contents.sealed[0].first_index if contents.sealed else newest.first_index
    if oldest_then > record.oldest:
        raise damaged(
            base.path,
            f"its newest valid slot says that segment {record.oldest} is needed, but when segment {newest.sequence} "
            f"was made it was {oldest_then}: a newer slot is lost",
        )
    if not first_index - 1 <= record.base.index <= last_index:
        raise damaged(
            base.path,
            f"it says that the log begins after entry {record.base.index}, but the segments hold "
            f"{first_index}-{last_index}",
        )
    newest.oldest = record.oldest


def remove_segments(filesystem: FileSystem, directory: str, paths: list[str]) -> None:
    """Remove segments that are not needed, oldest first. Raises OSError.

    One by one: were only some of two removals lost, a gap between segments would look like damage.
    """
    for path in paths:
        filesystem.remove(path)
        filesystem.sync_directory(directory)


def _load_sealed(
    filesystem: FileSystem, directory: str, contents: LogContents, sequence: int, first_index: int, expected: int
) -> int:
    """Add a sealed segment by its footer. Returns the first index that the next one must have."""
    path = f"{directory}/{segment_name(sequence, first_index)}"
    file = filesystem.open(path)
    try:
        sectors, _ = check_first_sector(path, file, sequence, first_index)
        _check_succession(path, first_index, expected)
        footer = load_footer(path, file, sequence, sectors)
    finally:
        file.close()
    contents.cut(footer.first_index)
    if not all(contents.add_run(run.first_index, run.term) for run in footer.term_runs):
        raise damaged(path, "the footer's terms go back", entries=f"{footer.first_index}-{footer.last_index}")
    contents.configurations.extend(footer.configurations)
    contents.sealed.append(Segment(sequence, path, sectors, footer.first_index, footer.last_index))
    return footer.last_index + 1


def _check_succession(path: str, first_index: int, expected: int) -> None:
    if expected and first_index != expected:
        raise damaged(
            path, f"the segment begins at entry {first_index}, the one before it ends at {expected - 1}", offset=0
        )


class _Scan:
    """Reads the newest segment record by record, in chunks."""

    def __init__(
        self, path: str, file: File, sequence: int, sectors: int, first_index: int, contents: LogContents
    ) -> None:
        self.contents = contents
        self.segment = OpenSegment(sequence, path, file, sectors, first_index, BatchTable.empty(first_index - 1))
        # Sector up to which the file was synced before its last record was written.
        self.last_synced = 1
        self._chunk = b""
        self._chunk_position = 0

    def run(self) -> _Tail:
        """Raises LogDamaged."""
        segment = self.segment
        end = segment.sectors - 1
        while segment.position < end:
            position = segment.position
            sector = self._fetch(position, 1)
            if sector == ZERO_SECTOR:
                break
            try:
                header = parse_header(sector, sequence=segment.sequence, position=position)
                if header.magic == FOOTER:
                    break
                if position + header.sectors > end:
                    raise BadRecord(f"a record of {header.sectors} sectors does not fit the segment")
                image = self._fetch(position, header.sectors)
                if not is_whole(image):
                    break
                self._take(header, image)
            except BadRecord as error:
                raise self._damaged(position, str(error)) from error
            segment.position += header.sectors
            self.last_synced = header.synced
        return self._look_behind()

    def _take(self, header: RecordHeader, image: bytes) -> None:
        """Replay one record. Raises BadRecord."""
        segment = self.segment
        body = body_of(header, image)
        if header.magic == TRUNCATION:
            if header.first_index > segment.table.last_index + 1:
                raise BadRecord(f"a truncation from {header.first_index}, after the last entry")
            self.truncate(header.first_index)
            return
        if header.first_index != segment.table.last_index + 1 or header.entries < 1:
            raise BadRecord(f"a batch of {header.entries} entries from {header.first_index}")
        index = header.first_index
        for run in runs_of(header, body):
            if not self.contents.add_run(index, run.term):
                raise BadRecord(f"the term goes back to {run.term} at entry {index}")
            index += run.count
        segment.term_runs += header.runs
        if header.configurations:
            configurations = encode_batch(decode_batch(header, image)).configurations
            segment.configurations += len(configurations)
            self.contents.configurations.extend(configurations)
        segment.table.add(header.first_index, header.last_index, header.position, header.sectors)

    def truncate(self, index: int) -> None:
        segment = self.segment
        self.contents.cut(index)
        segment.table = segment.table.cut(index)
        segment.first_index = min(segment.first_index, index)

    def _look_behind(self) -> _Tail:
        """Examine what follows the last whole record. Raises LogDamaged where a crash does not explain it."""
        segment = self.segment
        start = segment.position
        tail = _Tail(start, False, False)
        only_seal = True
        for position, sector in self._nonzero_sectors(start, segment.sectors - 1):
            tail.end = position + 1
            marker = sector[SECTOR_DATA:]
            if marker == REST:
                continue
            if marker != HEAD:
                raise self._damaged(position, f"a sector has the marker {marker.hex()}, which is never written")
            only_seal = self._check_unfinished(position, sector) and only_seal
        last = self._fetch(segment.sectors - 1, 1)
        tail.is_sealed = last != ZERO_SECTOR
        if tail.is_sealed and not is_valid_last_sector(last, segment.sequence):
            raise self._damaged(segment.sectors - 1, "the last sector's checksum is wrong")
        tail.torn = tail.end > start and not only_seal
        return tail

    def _check_unfinished(self, position: int, sector: bytes) -> bool:
        """Check a record's first sector behind the end of the log. Returns whether it is a footer's."""
        start = self.segment.position
        try:
            header = parse_header(sector, sequence=self.segment.sequence, position=position)
        except BadRecord as error:
            raise self._damaged(position, str(error)) from error
        if header.synced > start:
            raise self._damaged(
                start,
                f"the record here is not whole, but the one at offset {position * SECTOR_BYTES} was written after "
                f"a sync of everything up to offset {header.synced * SECTOR_BYTES}",
            )
        return header.magic == FOOTER

    def _nonzero_sectors(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for position in range(start, end, _CHUNK_SECTORS):
            count = min(_CHUNK_SECTORS, end - position)
            chunk = self.segment.file.pread(count * SECTOR_BYTES, position * SECTOR_BYTES)
            if chunk == _ZEROS[: len(chunk)]:
                continue
            for number in range(count):
                sector = chunk[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]
                if sector != ZERO_SECTOR:
                    yield position + number, sector

    def _fetch(self, position: int, count: int) -> bytes:
        """`count` sectors from `position`; reads at least a chunk at a time."""
        start = (position - self._chunk_position) * SECTOR_BYTES
        size = count * SECTOR_BYTES
        if start < 0 or start + size > len(self._chunk):
            self._chunk = self.segment.file.pread(max(size, len(_ZEROS)), position * SECTOR_BYTES)
            self._chunk_position, start = position, 0
        return self._chunk[start : start + size]

    def _damaged(self, position: int, what: str) -> LogDamaged:
        return record_damaged(self.segment.path, position, what, f"from {self.segment.table.last_index + 1} on")


def _repair(scan: _Scan, tail: _Tail) -> None:
    """Zero what lies behind the log, and make durable what is in it. Raises OSError."""
    segment = scan.segment
    file = segment.file
    for position in range(scan.last_synced, segment.position, _CHUNK_SECTORS):
        count = min(_CHUNK_SECTORS, segment.position - position)
        file.pwrite(file.pread(count * SECTOR_BYTES, position * SECTOR_BYTES), position * SECTOR_BYTES)
    zero_sectors(file, segment.position, tail.end)
    if tail.is_sealed:
        zero_sectors(file, segment.sectors - 1, segment.sectors)
    file.sync()
    segment.synced = segment.position


def zero_sectors(file: File, start: int, end: int) -> None:
    """Write zeros from sector `start` up to `end`, exclusive. Raises OSError."""
    for position in range(start, end, _CHUNK_SECTORS):
        count = min(_CHUNK_SECTORS, end - position)
        file.pwrite(_ZEROS[: count * SECTOR_BYTES], position * SECTOR_BYTES)
