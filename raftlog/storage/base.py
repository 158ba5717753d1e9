"""What stands before the log's first entry, on disk, in two alternating slots (paper §7: last included index and term).

Compacting a log and replacing it by a base are decided here: a slot that is whole and synced is the decision, and
recovery completes what was left of it. It says

- the base: entries up to it are not the log's any more, whatever segments still hold;
- the sequence of the oldest segment that is needed: those before it are void, removed or about to be; where that
  segment is not there and older ones are, the log was reset, and it begins anew.

A save writes the slot that holds the older state, then syncs. A slot is larger than a sector, so a crash may leave it
torn, and then the older one stands, by which nothing has been removed. An invalid slot that a crash does not explain,
because something was removed by it, shows in the segments: recovery refuses them.

Slot: magic (8), sequence (8), oldest segment (8), length (4), LogBase in msgpack, CRC32 of all before it (4).
Little-endian. The file has its full size from the beginning, so that a full disk can be compacted.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.layout import BASE, TEMPORARY, damaged

_MAGIC: Final = b"RLBASE1\n"
_SLOT: Final = struct.Struct("<8sQQI")
_CRC: Final = struct.Struct("<I")
SLOT_BYTES: Final = 16 * SECTOR_BYTES
MAX_BASE_BYTES: Final = SLOT_BYTES - _SLOT.size - _CRC.size

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LogBase)


class BaseRecord(NamedTuple):
    """`oldest`: sequence of the oldest segment that is needed."""

    base: LogBase = NO_BASE
    oldest: int = 1


def encode_slot(sequence: int, record: BaseRecord) -> bytes:
    """Raises ValueError where the configuration is too large for a slot."""
    body = _encoder.encode(record.base)
    if len(body) > MAX_BASE_BYTES:
        raise ValueError(
            f"a base of {len(body)} bytes is longer than {MAX_BASE_BYTES}: its configuration names "
            f"{len(record.base.configuration.servers)} servers"
        )
    slot = _SLOT.pack(_MAGIC, sequence, record.oldest, len(body)) + body
    return slot + _CRC.pack(crc32(slot))


def decode_slot(slot: bytes) -> tuple[int, BaseRecord] | None:
    """(sequence, record), or None where the slot is not valid."""
    if len(slot) < _SLOT.size:
        return None
    magic, sequence, oldest, length = _SLOT.unpack_from(slot)
    end = _SLOT.size + length
    if magic != _MAGIC or end + _CRC.size > len(slot) or _CRC.unpack_from(slot, end)[0] != crc32(slot[:end]):
        return None
    try:
        return sequence, BaseRecord(_decoder.decode(slot[_SLOT.size : end]), oldest)
    except msgspec.DecodeError:
        return None


class BaseFile:
    """The base of one log. One thread saves at a time."""

    def __init__(self, path: str, file: File | None, sequence: int, record: BaseRecord) -> None:
        self.path = path
        self._file = file
        self._sequence = sequence
        self.record = record

    def save(self, record: BaseRecord) -> None:
        """Durable when it returns. Raises OSError: then the older record stands, unless it was the sync that failed."""
        assert self._file is not None, f"{self.path} was opened for reading"
        slot = encode_slot(self._sequence + 1, record)
        self._file.pwrite(slot, (self._sequence + 1) % 2 * SLOT_BYTES)
        self._file.sync()
        self._sequence += 1
        self.record = record

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def create_base(filesystem: FileSystem, directory: str) -> None:
    """Make the file of a log that begins at entry 1, durably. Raises OSError."""
    path = f"{directory}/{BASE}"
    if filesystem.exists(path + TEMPORARY):
        filesystem.remove(path + TEMPORARY)
    file = filesystem.create(path + TEMPORARY, 2 * SLOT_BYTES)
    try:
        for sequence in range(2):
            file.pwrite(encode_slot(sequence, BaseRecord()), sequence * SLOT_BYTES)
        file.sync()
    finally:
        file.close()
    filesystem.rename(path + TEMPORARY, path)
    filesystem.sync_directory(directory)


def open_base(filesystem: FileSystem, directory: str, *, first_sequence: int, writable: bool) -> BaseFile:
    """Load the base; with `writable`, what was loaded is durable on return. Raises LogDamaged, OSError.

    A log that still has its first segment gave up nothing: a directory from before there was this file gets one.
    """
    path = f"{directory}/{BASE}"
    if not filesystem.exists(path):
        if first_sequence != 1:
            raise damaged(path, "the file is missing; where the log begins is not known")
        if not writable:
            return BaseFile(path, None, 1, BaseRecord())
        create_base(filesystem, directory)
    file = filesystem.open(path, writable=writable)
    try:
        sequence, record = _newest(path, file)
        if writable:
            # As with the hard state: a process that died between write and sync left it in the page cache only.
            file.pwrite(encode_slot(sequence, record), sequence % 2 * SLOT_BYTES)
            file.sync()
    except BaseException:
        file.close()
        raise
    if writable:
        return BaseFile(path, file, sequence, record)
    file.close()
    return BaseFile(path, None, sequence, record)


def _newest(path: str, file: File) -> tuple[int, BaseRecord]:
    """The newest valid slot. Raises LogDamaged where there is none, or the file is not as long as it was made."""
    size = file.size()
    if size != 2 * SLOT_BYTES:
        raise damaged(path, f"the file has {size} bytes instead of {2 * SLOT_BYTES}")
    slots = []
    for number in range(2):
        slot = decode_slot(file.pread(SLOT_BYTES, number * SLOT_BYTES))
        if slot is not None and slot[0] % 2 == number:
            slots.append(slot)
    if not slots:
        raise damaged(path, "neither slot is valid; where the log begins is not known")
    return max(slots, key=lambda slot: slot[0])
