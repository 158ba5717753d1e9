"""The log on disk: LogStore over segment files (design section 4; rules 6 to 8).

Rules about this file:

1. One thread writes at a time; the caller sees to it. No lock is taken here.
2. `read` may run in any thread at any time. It takes `_view` once, and whatever a view refers to stays
   readable: files are only added to, a truncation makes new tables, and a removed file fails the read,
   which then looks whether the view has changed.
3. A record is written with one write, at the end of the log, into space that is reserved and zero.
   Nothing is published before its write has returned.
4. After an OSError nothing is written any more (rule: a failed fsync is final), except after "no room":
   then what the failed write may have left is zeroed and synced before the next write.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import Final

from raftlog.consensus.entries import EntryBatch
from raftlog.consensus.snapshot import LogBase
from raftlog.consensus.state import TermRun
from raftlog.exceptions import DiskFull, LogDamaged, StorageError, StorageFailed
from raftlog.storage.base import BaseRecord
from raftlog.storage.batches import split
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.layout import TEMPORARY, segment_name
from raftlog.storage.log_view import View, read_view
from raftlog.storage.record import BATCH, TRUNCATION, BatchBody, encode_batch, frame, sectors_for
from raftlog.storage.recovery import LoadedLog, LogContents, RecoveryReport, remove_segments, zero_sectors
from raftlog.storage.segment import (
    BatchTable,
    Footer,
    OpenSegment,
    Segment,
    create_segment,
    encode_seal,
    footer_sectors,
    load_footer,
    publish_segment,
)

SEGMENT_BYTES: Final = 64 << 20
MIN_SEGMENT_BYTES: Final = 4096
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Sectors of each segment that batches leave free, so that truncating and compacting need no new file on a full disk.
MARK_ROOM: Final = 4
# A larger batch is written in several records (with one write), so that reading a part of it costs less.
RECORD_BYTES: Final = 256 << 10
# Indices of sealed segments kept in memory, each at most about 2 MiB.
CACHED_TABLES: Final = 8


class SegmentedLog:
    """LogStore on disk. Made by `open_storage()`."""

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        loaded: LoadedLog,
        segment_bytes: int,
        *,
        read_only: bool = False,
    ) -> None:
        if segment_bytes < MIN_SEGMENT_BYTES:
            raise ValueError(f"segment_bytes {segment_bytes} is below {MIN_SEGMENT_BYTES}")
        self._filesystem = filesystem
        self._directory = directory
        self._segment_sectors = segment_bytes // SECTOR_BYTES
        self._contents = loaded.contents
        self._open = loaded.open_segment
        self._base = loaded.base
        self.report: RecoveryReport = loaded.report
        # Why nothing may be written any more; "" while all is well.
        # Invariant: never becomes "" again.
        self._failure = f"the log in {directory} was opened for reading" if read_only else ""
        # Sectors (from, up to) of the open segment that a write without room may have touched.
        self._unclean: list[tuple[int, int]] = []
        # lru_cache is safe in threads: a table may be loaded twice, never wrongly.
        self._load_table = lru_cache(CACHED_TABLES)(self._open_sealed)
        self._view = self._publish()

    # What is in the log

    @property
    def base(self) -> LogBase:
        return self._base.record.base

    @property
    def first_index(self) -> int:
        return self._view.first_index

    @property
    def last_index(self) -> int:
        return self._view.table.last_index

    def term_runs(self) -> list[TermRun]:
        """Of the entries held, the first of which may be in the middle of its term."""
        runs, first_index = self._contents.term_runs, self.first_index
        if first_index > self.last_index:
            return []
        number = bisect_right(runs, first_index, key=lambda run: run.first_index) - 1
        return [TermRun(first_index, runs[number].term), *runs[number + 1 :]]

    def configuration_indices(self) -> list[int]:
        configurations = self._contents.configurations
        return configurations[bisect_left(configurations, self.first_index) :]

    # Writing

    def append(self, batch: EntryBatch) -> None:
        """Write a batch whose first_index is last_index + 1: one write, no sync.

        Raises DiskFull (the log is as it was; try again when there is room), StorageFailed, InvalidEntry.
        """
        self._check_writable()
        expected = self._open.table.last_index + 1
        if batch.first_index != expected:
            raise ValueError(f"a batch from {batch.first_index} does not follow entry {expected - 1}")
        if not batch.payloads:
            return
        pieces = [(piece, encode_batch(piece)) for piece in split(batch, RECORD_BYTES)]
        new_runs = self._new_runs(batch)
        sectors = sum(sectors_for(body.size) for _, body in pieces)
        configurations = sum(len(body.configurations) for _, body in pieces)
        self._clean()
        if not self._open.has_room(sectors, len(pieces), len(new_runs), configurations, MARK_ROOM):
            self._roll(sectors, len(pieces), len(new_runs), configurations)
        self._write_pieces(pieces)
        self._contents.term_runs.extend(new_runs)
        self._open.term_runs += len(new_runs)

    def _new_runs(self, batch: EntryBatch) -> list[TermRun]:
        runs: list[TermRun] = []
        known = self._contents.term_runs
        last_term = known[-1].term if known else self.base.term
        index = batch.first_index
        for count, term, _ in batch.runs:
            if term > last_term or not (known or runs):
                runs.append(TermRun(index, term))
            if term < last_term:
                raise ValueError(f"entry {index} of term {term} does not follow term {last_term}")
            last_term = term
            index += count
        return runs

    def _write_pieces(self, pieces: list[tuple[EntryBatch, BatchBody]]) -> None:
        """Write all pieces at once, then show them."""
        segment = self._open
        position = segment.position
        records = []
        for batch, body in pieces:
            record = frame(
                BATCH,
                body.parts,
                body.size,
                sequence=segment.sequence,
                position=position,
                synced=segment.synced,
                first_index=batch.first_index,
                entries=len(batch.payloads),
                runs=len(batch.runs),
                configurations=len(body.configurations),
            )
            records.append(record)
            position += len(record) // SECTOR_BYTES
        self._write(b"".join(records), segment.position)
        for (batch, body), record in zip(pieces, records, strict=True):
            sectors = len(record) // SECTOR_BYTES
            if body.configurations:
                segment.configurations += len(body.configurations)
                self._contents.configurations.extend(body.configurations)
            segment.table.add(batch.first_index, batch.last_index, segment.position, sectors)
            segment.position += sectors

    def sync(self) -> None:
        """Make everything appended durable: one sync. Raises StorageFailed; then the process must stop."""
        self._check_writable()
        segment = self._open
        if segment.synced == segment.position:
            return
        try:
            segment.file.sync()
        except OSError as error:
            raise self._fail(f"{segment.path} could not be synced", error) from error
        segment.synced = segment.position

    def truncate_from(self, index: int) -> None:
        """Remove the entries from `index` (inclusive) on, durably: one record and one sync.

        Nothing happens where `index` is after the last entry. Raises StorageFailed; DiskFull where not
        even the reserved room is left (then the log is as it was).
        """
        self._check_writable()
        if index < self.first_index:
            raise ValueError(f"entries from {index} on cannot be removed: the log begins at {self.first_index}")
        if index > self.last_index:
            return
        self._write_mark(TRUNCATION, index)
        segment = self._open
        self._contents.cut(index)
        segment.table = segment.table.cut(index)
        segment.first_index = min(segment.first_index, index)
        self._publish()

    def compactable_to(self, index: int) -> int:
        """The last index that lies, with all before it, in sealed segments which end at or below `index`: compacting
        to there gives room, and to any index between there and `index` none. At least base.index."""
        last = [segment.last_index for segment in self._contents.sealed if segment.last_index <= index]
        return max([self.base.index, *last])

    def compact_to(self, base: LogBase) -> None:
        """Give up the entries up to base.index: the log begins after it, durably; then whole segments are removed.

        Nothing happens where it begins there or later already. Caller's duty: a durable snapshot holds everything up
        to base.index. Raises ValueError where `base` is not an entry of this log, DiskFull (the log is as it was),
        StorageFailed.
        """
        self._check_writable()
        if base.index <= self.base.index:
            return
        if base.index > self.last_index or self._term_at(base.index) != base.term:
            raise ValueError(f"entry {base.term}:{base.index} is not in the log, which ends at {self.last_index}")
        self.sync()
        sealed = self._contents.sealed
        count = 0
        while count < len(sealed) and sealed[count].last_index <= base.index:
            count += 1
        unneeded = [segment.path for segment in sealed[:count]]
        self._save_base(base, sealed[count - 1].sequence + 1 if count else self._open.oldest)
        del sealed[:count]
        self._open.oldest = self._base.record.oldest
        self._contents.forget_below(sealed[0].first_index if sealed else self._open.first_index, self.last_index)
        self._publish()
        self._remove(unneeded)

    def _term_at(self, index: int) -> int:
        runs = self._contents.term_runs
        return runs[bisect_right(runs, index, key=lambda run: run.first_index) - 1].term

    def reset_to(self, base: LogBase) -> None:
        """Replace the whole log by `base`, durably: what it held is gone, and the next entry is base.index + 1.

        Caller's duty: a durable snapshot holds everything up to base.index, and no entry after it that this log held
        was acknowledged and is needed. Raises DiskFull (the log is as it was), StorageFailed.
        """
        self._check_writable()
        old = self._open
        sequence, first_index = old.sequence + 1, base.index + 1
        path = f"{self._directory}/{segment_name(sequence, first_index)}"
        try:
            file = create_segment(
                self._filesystem, self._directory, sequence, first_index, sequence, self._segment_sectors
            )
        except OSError as error:
            raise self._no_room_or_fail(f"{path} could not be made", error) from error
        try:
            self._save_base(base, sequence)
        except DiskFull:
            self._give_up_segment(file, path)
            raise
        try:
            publish_segment(self._filesystem, self._directory, sequence, first_index)
        except OSError as error:
            raise self._fail(f"{path} could not be made", error) from error
        unneeded = [*(segment.path for segment in self._contents.sealed), old.path]
        self._contents = LogContents()
        self._unclean = []
        self._open = OpenSegment(
            sequence, path, file, self._segment_sectors, first_index, BatchTable.empty(base.index), oldest=sequence
        )
        self._publish()
        self._remove(unneeded)

    def _save_base(self, base: LogBase, oldest: int) -> None:
        try:
            self._base.save(BaseRecord(base, oldest))
        except OSError as error:
            raise self._no_room_or_fail(f"{self._base.path} could not be written", error) from error

    def _remove(self, paths: list[str]) -> None:
        try:
            remove_segments(self._filesystem, self._directory, paths)
        except OSError as error:
            raise self._fail(f"segments in {self._directory} could not be removed", error) from error

    def _write_mark(self, magic: bytes, number: int) -> None:
        """Write and sync a record of one sector that says only `number`. Raises DiskFull, StorageFailed."""
        self._clean()
        if not self._open.has_room(1, 0, 0, 0, 0):
            self._roll(1, 0, 0, 0)
        segment = self._open
        record = frame(
            magic,
            [],
            0,
            sequence=segment.sequence,
            position=segment.position,
            synced=segment.synced,
            first_index=number,
        )
        self._write(record, segment.position)
        segment.position += 1
        self.sync()

    def close(self) -> None:
        """Idempotent. Does not sync: what was not synced was not promised."""
        self._failure = self._failure or f"the log in {self._directory} is closed"
        self._open.file.close()
        self._base.close()
        self._load_table.cache_clear()

    # Reading

    def read(self, first_index: int, last_index: int, max_bytes: int) -> EntryBatch:
        """Entries from `first_index` to at most `last_index`, at least one, else about `max_bytes` of payload.

        Raises LogCompacted, LogTruncated, LogDamaged, StorageFailed (the disk cannot be read). Thread-safe.
        """
        while True:
            view = self._view
            try:
                batch = read_view(view, first_index, last_index, max_bytes, self._load_table)
            except (OSError, LogDamaged) as error:
                if self._view is view:
                    if isinstance(error, StorageError):
                        raise
                    raise StorageFailed(
                        f"entries from {first_index} on could not be read from {self._directory}: {error}"
                    ) from error
                continue  # the file was removed, or a truncation came between: look again
            if self._view is view:
                return batch

    def _open_sealed(self, segment: Segment) -> tuple[File, BatchTable]:
        """The file of a sealed segment and its index; kept for a few. The file closes with its last reader."""
        file = self._filesystem.open(segment.path)
        return file, load_footer(segment.path, file, segment.sequence, segment.sectors).table

    # Segments

    def _publish(self) -> View:
        """Show readers the segments as they are now."""
        segment = self._open
        sealed = self._contents.sealed
        live = tuple(old for old in sealed if old.first_index <= old.last_index)
        self._view = View(
            self.base.index + 1,
            live,
            tuple(old.first_index for old in live),
            segment.path,
            segment.sequence,
            segment.file,
            segment.first_index,
            segment.table,
        )
        return self._view

    def _roll(self, sectors: int, batches: int, term_runs: int, configurations: int) -> None:
        """Seal the open segment and begin a new one with room for records of so many sectors.

        The new file is made first: where there is no room for it, DiskFull leaves everything as it was.
        """
        old = self._open
        sequence, first_index = old.sequence + 1, old.table.last_index + 1
        size = 1 + sectors + footer_sectors(batches, 1 + term_runs, configurations) + 1 + MARK_ROOM
        size = max(self._segment_sectors, -(-size // 8) * 8)  # whole pages of 4 KiB
        path = f"{self._directory}/{segment_name(sequence, first_index)}"
        try:
            file = create_segment(self._filesystem, self._directory, sequence, first_index, old.oldest, size)
        except OSError as error:
            raise self._no_room_or_fail(f"{path} could not be made", error) from error
        self._seal(old, file, path)
        try:
            publish_segment(self._filesystem, self._directory, sequence, first_index)
        except OSError as error:
            raise self._fail(f"{path} could not be made", error) from error
        last_index = old.table.last_index
        self._contents.sealed.append(Segment(old.sequence, old.path, old.sectors, old.first_index, last_index))
        self._open = OpenSegment(
            sequence, path, file, size, first_index, BatchTable.empty(last_index), oldest=old.oldest
        )
        self._publish()

    def _seal(self, segment: OpenSegment, successor: File, successor_path: str) -> None:
        """Write and sync the footer and the last sector of `segment`."""
        footer = Footer(
            segment.first_index, segment.table.last_index, segment.table, *self._live_runs(segment.first_index)
        )
        record, last = encode_seal(footer, sequence=segment.sequence, position=segment.position, synced=segment.synced)
        try:
            self._write(record, segment.position)
            self._write(last, segment.sectors - 1)
        except DiskFull:
            # Both lie in reserved space, so this takes a file system that copies on write.
            self._unclean.append((segment.position, segment.position + len(record) // SECTOR_BYTES))
            self._give_up_segment(successor, successor_path)
            raise
        try:
            segment.file.sync()
        except OSError as error:
            raise self._fail(f"{segment.path} could not be synced", error) from error

    def _give_up_segment(self, file: File, path: str) -> None:
        """Remove a segment that was made and not published."""
        file.close()
        try:
            self._filesystem.remove(path + TEMPORARY)
        except OSError as error:
            raise self._fail(f"{path}{TEMPORARY} could not be removed", error) from error

    def _live_runs(self, first_index: int) -> tuple[list[TermRun], list[int]]:
        """Term runs and configurations of the entries from `first_index` on."""
        runs = self._contents.term_runs
        if first_index > self.last_index:
            return [], []
        number = bisect_right(runs, first_index, key=lambda run: run.first_index) - 1
        live = [TermRun(first_index, runs[number].term), *runs[number + 1 :]]
        configurations = self._contents.configurations
        return live, configurations[bisect_left(configurations, first_index) :]

    # Failure

    def _check_writable(self) -> None:
        if self._failure:
            raise StorageFailed(self._failure)

    def _write(self, record: bytes, position: int) -> None:
        segment = self._open
        try:
            segment.file.pwrite(record, position * SECTOR_BYTES)
        except OSError as error:
            self._unclean.append((position, position + len(record) // SECTOR_BYTES))
            raise self._no_room_or_fail(f"{segment.path} could not be written", error) from error

    def _clean(self) -> None:
        """Zero what writes without room have left, before anything is written there. Raises DiskFull, StorageFailed."""
        if not self._unclean:
            return
        segment = self._open
        try:
            for start, end in self._unclean:
                zero_sectors(segment.file, start, end)
        except OSError as error:
            raise self._no_room_or_fail(f"{segment.path} could not be written", error) from error
        try:
            segment.file.sync()
        except OSError as error:
            raise self._fail(f"{segment.path} could not be synced", error) from error
        segment.synced = segment.position
        self._unclean.clear()

    def _no_room_or_fail(self, what: str, error: OSError) -> StorageError:
        if error.errno in NO_ROOM:
            return DiskFull(f"{what}: {error.strerror}. The log is unharmed and goes on when there is room")
        return self._fail(what, error)

    def _fail(self, what: str, error: OSError) -> StorageFailed:
        self._failure = (
            f"{what}: {error}. What is on the disk is not known any more, so this process must stop. "
            "Start it again once the disk is in order; see the kernel's log"
        )
        return StorageFailed(self._failure)
