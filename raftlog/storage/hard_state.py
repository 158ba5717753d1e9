"""current_term and voted_for on disk, in two alternating slots (Figure 2: "updated on stable storage
before responding to RPCs"; rule 7 of the design).

The file is two sectors. A save writes the slot that holds the older state, then syncs: a sector is
never torn, so the newer of the two is always whole. Both slots are written when the file is made, so
at any later time, crash or not, both are valid and their sequence numbers are neighbours. Anything
else is damage: a vote may have been lost with it, so loading refuses instead of going back to the
older slot.

Slot: magic (8), sequence (8), current_term (8), length of voted_for (2), voted_for (UTF-8), zeros,
CRC32 of all before it (4). Little-endian.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from raftlog.consensus.state import HardState
from raftlog.exceptions import StorageFailed
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.layout import HARD_STATE, TEMPORARY, damaged

_MAGIC: Final = b"RLHARD1\n"
_SLOT: Final = struct.Struct("<8sQQH")
_CRC: Final = struct.Struct("<I")
MAX_VOTED_FOR_BYTES: Final = SECTOR_BYTES - _SLOT.size - _CRC.size


def encode_slot(sequence: int, hard_state: HardState) -> bytes:
    """Raises ValueError where the name of `voted_for` is too long for a slot."""
    voted_for = hard_state.voted_for.encode()
    if len(voted_for) > MAX_VOTED_FOR_BYTES:
        raise ValueError(
            f"voted_for of {len(voted_for)} bytes is longer than {MAX_VOTED_FOR_BYTES}: shorten the node id"
        )
    slot = _SLOT.pack(_MAGIC, sequence, hard_state.current_term, len(voted_for)) + voted_for
    slot = slot.ljust(SECTOR_BYTES - _CRC.size, b"\0")
    return slot + _CRC.pack(crc32(slot))


def decode_slot(slot: bytes) -> tuple[int, HardState] | None:
    """(sequence, hard state), or None where the slot is not valid."""
    if len(slot) != SECTOR_BYTES or _CRC.unpack_from(slot, SECTOR_BYTES - _CRC.size)[0] != crc32(slot[: -_CRC.size]):
        return None
    magic, sequence, current_term, length = _SLOT.unpack_from(slot)
    voted_for = slot[_SLOT.size : _SLOT.size + length]
    if magic != _MAGIC or length > MAX_VOTED_FOR_BYTES:
        return None
    return sequence, HardState(current_term, voted_for.decode())


def create_hard_state(filesystem: FileSystem, directory: str) -> None:
    """Make the file, with term 0 and no vote in both slots, durably. Raises OSError."""
    path = f"{directory}/{HARD_STATE}"
    file = filesystem.create(path + TEMPORARY, 2 * SECTOR_BYTES)
    try:
        file.pwrite(encode_slot(0, HardState()) + encode_slot(1, HardState()), 0)
        file.sync()
    finally:
        file.close()
    filesystem.rename(path + TEMPORARY, path)
    filesystem.sync_directory(directory)


class DurableHardState:
    """HardStateStore on disk. One thread saves at a time."""

    def __init__(self, path: str, file: File, sequence: int, hard_state: HardState) -> None:
        self._path = path
        self._file = file
        # Sequence number of the newest slot; it stands in slot number `sequence % 2`.
        self._sequence = sequence
        self._hard_state = hard_state
        # Why no more may be written; "" while all is well.
        self._failure = ""

    def load(self) -> HardState:
        return self._hard_state

    def save(self, hard_state: HardState) -> None:
        """Durable when it returns. Raises StorageFailed; then the process must stop."""
        if self._failure:
            raise StorageFailed(self._failure)
        slot = encode_slot(self._sequence + 1, hard_state)
        try:
            self._file.pwrite(slot, (self._sequence + 1) % 2 * SECTOR_BYTES)
            self._file.sync()
        except OSError as error:
            self._failure = f"{self._path}: the hard state could not be saved: {error}. The process must stop"
            raise StorageFailed(self._failure) from error
        self._sequence += 1
        self._hard_state = hard_state

    def close(self) -> None:
        self._failure = self._failure or f"{self._path} is closed"
        self._file.close()


def read_hard_state(path: str, file: File) -> tuple[int, HardState]:
    """The newest slot. Raises LogDamaged where the file is not two valid, neighbouring slots."""
    data = file.pread(file.size(), 0)
    if len(data) != 2 * SECTOR_BYTES:
        raise damaged(path, f"the file has {len(data)} bytes instead of {2 * SECTOR_BYTES}; term and vote may be lost")
    slots = []
    for number in range(2):
        offset = number * SECTOR_BYTES
        slot = decode_slot(data[offset : offset + SECTOR_BYTES])
        if slot is None or slot[0] % 2 != number:
            raise damaged(path, f"slot {number} is not valid; a term or a vote may be lost", offset=offset)
        slots.append(slot)
    older, newer = sorted(slots, key=lambda slot: slot[0])
    if newer[0] != older[0] + 1 or newer[1].current_term < older[1].current_term:
        raise damaged(
            path,
            f"the slots have sequences {older[0]} and {newer[0]}, terms {older[1].current_term} and "
            f"{newer[1].current_term}; they must follow each other, so a term or a vote may be lost",
        )
    return newer


def open_hard_state(filesystem: FileSystem, directory: str) -> DurableHardState:
    """Load the hard state and make sure that what was loaded is durable. Raises LogDamaged, OSError."""
    path = f"{directory}/{HARD_STATE}"
    try:
        file = filesystem.open(path, writable=True)
    except FileNotFoundError:
        raise damaged(path, "the file is missing; term and vote are lost") from None
    try:
        sequence, hard_state = read_hard_state(path, file)
        # A process that died between write and sync left this slot in the page cache only, perhaps as
        # a page that a failed sync has marked clean: write it anew before anyone relies on it.
        file.pwrite(encode_slot(sequence, hard_state), sequence % 2 * SECTOR_BYTES)
        file.sync()
    except BaseException:
        file.close()
        raise
    return DurableHardState(path, file, sequence, hard_state)
