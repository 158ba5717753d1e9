"""The only place that touches files: everything else in storage goes through a `FileSystem`.

Two protocols, `FileSystem` and `File`, and their implementation on the operating system. Tests and
the simulation implement the same protocols over a disk that loses, tears and reorders what was not
synced (`raftlog.testing.disk`), records every call (`raftlog.testing.crash_points`) or fails on
command (`raftlog.storage.faults`).

What survives a crash, which is all that storage relies on:

1. The bytes of a file survive once `File.sync()` has returned. Before that, any sector of 512 bytes
   of an unsynced write may or may not have reached the disk, in any order; a sector is never torn.
2. `create`, `rename` and `remove` survive once `sync_directory()` of their directory has returned.
3. A file's size survives `File.sync()` (fdatasync writes the size where reading the data needs it).
4. A rename is atomic: after a crash the new name is the old file or the new one, never neither.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from typing import Final, Protocol, TypeAlias

from raftlog.exceptions import DirectoryInUse

SECTOR_BYTES: Final = 512
Buffer: TypeAlias = bytes | bytearray | memoryview
_ZEROS: Final = bytes(1 << 20)
_sync_data: Final = getattr(os, "fdatasync", os.fsync)
# posix_fallocate() of some C libraries and file systems.
_NO_RESERVING: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class File(Protocol):
    """An open file. One thread writes at a time; `pread` may be called from any thread."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file. Raises OSError."""
        ...

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`. Raises OSError; then a part of it may have been written."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow with zeros, to `size` bytes. Raises OSError."""
        ...

    def size(self) -> int:
        """Bytes in the file."""
        ...

    def sync(self) -> None:
        """Make everything written to this file durable (fdatasync). Raises OSError; that is final."""
        ...

    def close(self) -> None:
        """Idempotent. The file is also closed when the last reference to it goes, so that a reader may
        finish on a file that a truncation has removed meanwhile."""
        ...


class Lock(Protocol):
    """A held lock on a path, until `release()` or the end of the process."""

    def release(self) -> None: ...


class FileSystem(Protocol):
    """Paths are strings, joined with "/". Errors are OSErrors, with their errno."""

    def create(self, path: str, size: int) -> File:
        """A new file of `size` zero bytes whose space is reserved, open for writing.

        Raises FileExistsError where `path` exists, OSError with ENOSPC where there is no room; then no
        file is left behind.
        """
        ...

    def open(self, path: str, *, writable: bool = False) -> File:
        """Raises FileNotFoundError."""
        ...

    def exists(self, path: str) -> bool: ...

    def list_directory(self, path: str) -> list[str]:
        """Names in the directory, sorted. Raises FileNotFoundError."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomically; replaces `new` where it exists."""
        ...

    def remove(self, path: str) -> None: ...

    def make_directory(self, path: str) -> None:
        """With parents, mode 0700; nothing where it exists."""
        ...

    def sync_directory(self, path: str) -> None:
        """Make creations, renames and removals in this directory durable."""
        ...

    def lock(self, path: str) -> Lock:
        """Take an exclusive lock, without waiting. Raises DirectoryInUse, naming the holder's pid."""
        ...


class RealFile:
    """A file of the operating system.

    A write into space that is reserved but was never written costs a journal commit on ext4 and the
    like, which doubles the price of its sync. So a write that reaches such space writes zeros after
    itself, up to 1 MiB of them, and the next thousands of small writes find written space.
    """

    __slots__ = ("_descriptor", "_size", "_written_end", "path")

    def __init__(self, path: str, descriptor: int, written_end: int, size: int) -> None:
        self.path = path
        self._descriptor = descriptor
        # From here to `_size` the file is reserved space: zeros that were never written.
        self._written_end = written_end
        self._size = size

    def pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size:  # a signal or the 2 GiB limit of Linux may cut a read short
            data = os.pread(self._descriptor, size - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite(self, data: Buffer, offset: int) -> None:
        end = offset + len(data)
        written = os.pwrite(self._descriptor, data, offset)
        if written < len(data):
            self._write_rest(memoryview(data)[written:], offset + written)
        if end > self._written_end:
            zeros = min(len(_ZEROS), self._size - end)
            if zeros > 0:
                self._write_rest(memoryview(_ZEROS)[:zeros], end)
                end += zeros
            self._written_end = end

    def _write_rest(self, data: memoryview, offset: int) -> None:
        while len(data):
            written = os.pwrite(self._descriptor, data, offset)
            if written == 0:
                raise OSError(errno.ENOSPC, "the file took no more bytes", self.path)
            data = data[written:]
            offset += written

    def truncate(self, size: int) -> None:
        self._size = self._written_end = 0  # no more zeros ahead: what lies there is not known
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        _sync_data(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class RealLock:
    """flock() on a file that names its holder. A forked child has no part in it."""

    __slots__ = ("__weakref__", "_descriptor")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _held_locks.add(self)

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child between fork and exec may have a copy of the descriptor
            os.close(descriptor)  # the file stays, harmless

    def forked(self) -> None:
        """In the child: close the copy of the descriptor, which leaves the lock with the parent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_held_locks: weakref.WeakSet[RealLock] = weakref.WeakSet()


def _leave_locks_to_the_parent() -> None:
    for lock in list(_held_locks):
        lock.forked()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


class RealFileSystem:
    """The operating system's files."""

    def create(self, path: str, size: int) -> File:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            reserved = _reserve(descriptor, size)
        except OSError:
            os.close(descriptor)
            os.unlink(path)
            raise
        return RealFile(path, descriptor, 0 if reserved else size, size)

    def open(self, path: str, *, writable: bool = False) -> File:
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        size = os.fstat(descriptor).st_size
        return RealFile(path, descriptor, _written_end(descriptor, size) if writable else size, size)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list_directory(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: str) -> Lock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise DirectoryInUse(
                f"{path} is locked by process {holder or 'unknown'}, which is the node of this directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        return RealLock(descriptor)


def _reserve(descriptor: int, size: int) -> bool:
    """Give the file `size` zero bytes whose space is taken, so that an append cannot run out of it.

    Returns whether the space is only reserved (True) or was written.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            if size:
                os.posix_fallocate(descriptor, 0, size)
            return True
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise
    offset = 0
    while offset < size:
        offset += os.pwrite(descriptor, _ZEROS[: min(len(_ZEROS), size - offset)], offset)
    return False


def _written_end(descriptor: int, size: int) -> int:
    """Where reserved space that was never written begins, as far as the filesystem can tell; else `size`."""
    try:
        hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
        while hole < size:
            hole = os.lseek(descriptor, os.lseek(descriptor, hole, os.SEEK_DATA), os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: no data after the last hole. Else: cannot tell
            return size
    return hole
