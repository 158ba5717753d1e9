"""A disk in memory that forgets like a real one: `storage.filesystem.FileSystem` for the simulation.

What a crash leaves (the promises of `storage/filesystem.py`, and nothing beyond them):

1. Bytes of a file that were synced are there. Of what was written since, each sector of 512 bytes may be
   there or not, whatever came before or after it (lost, torn, reordered); a sector itself is never torn.
2. A creation, rename or removal whose directory was not synced may have happened or not, each by itself.
3. Growing and cutting a file is kept or lost like a write.

Directories themselves are there once made. Faults, switched on from outside: `fail_syncs` (fsync raises
EIO from then on; what it should have written counts as clean, as in Linux: a read still shows it, a later sync does
not write it), `free_bytes` (ENOSPC beyond it), `crash_at_call(n)` (power is lost, or the process killed, in the
n-th call from now that changes anything: before it or after it), and `latency` (seconds of virtual time that
each sync takes; the disk only adds them up in `waited`, whoever drives it lets them pass).

Not thread-safe. After crash() every file and lock handed out before is dead: using it raises Crashed.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftlog.exceptions import DirectoryInUse
from raftlog.storage.filesystem import SECTOR_BYTES

UNLIMITED: Final = 1 << 62


class Crashed(BaseException):
    """Power was lost inside a call. Not an Exception: nothing that handles errors may live through it."""


class Killed(Crashed):
    """The process was killed inside a call; the machine goes on."""


@dataclass(slots=True)
class _Change:
    """One unsynced change of a file: bytes at an offset, or (data None) a new size."""

    offset: int
    data: bytes | None


class _Inode:
    __slots__ = ("durable", "pending", "seen")

    def __init__(self) -> None:
        self.seen = bytearray()  # what a read gives
        self.durable = bytearray()  # what a crash cannot take
        self.pending: list[_Change] = []

    def change(self, change: _Change) -> None:
        _apply(self.seen, change)
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()


def _apply(content: bytearray, change: _Change) -> None:
    size = len(content)
    if change.data is None:
        if change.offset < size:
            del content[change.offset :]
        else:
            content.extend(bytes(change.offset - size))
        return
    if change.offset > size:
        content.extend(bytes(change.offset - size))
    content[change.offset : change.offset + len(change.data)] = change.data


# A directory change that is not synced: the name, what it stood for before, what it stands for now (None: nothing).
_Renaming = list[tuple[str, _Inode | None]]


class SimulatedDisk:
    """One node's disk. It outlives the node's crashes; `crash()` is one."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.fail_syncs = False
        self.free_bytes = UNLIMITED
        self.latency = 0.0
        self.waited = 0.0
        self.syncs = 0
        self.calls = 0  # that change anything
        # Told of each call that changes anything, before it happens ("create", path): for traces.
        self.watch: Callable[[str, str], None] | None = None
        self._epoch = 0
        self._crash_at = 0
        self._crash_error = Crashed
        # The next write of more than one sector is torn: power is lost, and each of its sectors may be there or not.
        self.tear_next_write = False
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._pending_names: list[_Renaming] = []
        self._directories = {"/", ""}
        self._locks: set[str] = set()

    # Faults

    def crash_at_call(self, calls: int, *, power: bool = True) -> None:
        """Lose power, or be killed, in the `calls`-th changing call from now (1: the next). 0 takes it back."""
        self._crash_at = self.calls + calls if calls else 0
        self._crash_error = Crashed if power else Killed

    def crash(self) -> None:
        """Lose power: of what was not synced, keep what the random source says."""
        rng = self.rng
        self._epoch += 1
        self._crash_at = 0
        self._locks.clear()
        torn, self.tear_next_write = self.tear_next_write, False
        keep = rng.choice((0.0, 0.0, 0.5, 0.9, 1.0))
        for renaming in self._pending_names:
            if rng.random() < keep:
                _rename(self._durable_names, renaming)
        self._pending_names.clear()
        # In the order of their making, not of a set: the same seed loses the same bytes.
        for inode in dict.fromkeys([*self._durable_names.values(), *self._names.values()]):
            if inode.pending:
                self._settle(inode, 0.5 if torn else rng.choice((0.0, 0.5, 0.9, 1.0)))
            inode.seen = bytearray(inode.durable)
        self._names = dict(self._durable_names)

    def kill(self) -> None:
        """End the process but not the machine: what was written is still in the page cache, and still not synced."""
        self._epoch += 1
        self._crash_at = 0
        self._locks.clear()

    def _settle(self, inode: _Inode, keep: float) -> None:
        """Let each sector of each unsynced change reach the disk with probability `keep`."""
        rng = self.rng
        for change in inode.pending:
            if change.data is None:
                if rng.random() < keep:
                    _apply(inode.durable, change)
                continue
            start, end = change.offset, change.offset + len(change.data)
            while start < end:
                stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
                if rng.random() < keep:
                    _apply(inode.durable, _Change(start, change.data[start - change.offset : stop - change.offset]))
                start = stop
        inode.pending.clear()

    def damage(self, rng: random.Random) -> str:
        """Flip one bit of what was written: in the last sector of some file, or anywhere in it. Says where.

        Call it after crash(): what is damaged is what the platter holds.
        """
        written = [path for path, inode in self._names.items() if inode.durable.strip(b"\0")]
        if not written:
            return ""
        path = rng.choice(sorted(written))
        inode = self._names[path]
        end = len(inode.durable.rstrip(b"\0"))
        start = max(0, end - SECTOR_BYTES) if rng.random() < 0.6 else 0
        offset = rng.choice([each for each in range(start, end) if inode.durable[each]])
        inode.durable[offset] ^= 1 << rng.randrange(8)
        inode.seen = bytearray(inode.durable)
        return f"{path} at {offset}"

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.seen) for inode in self._names.values())

    # FileSystem

    def create(self, path: str, size: int) -> SimulatedFile:
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self._need_directory(path)
        self._need_room(size, path)
        inode = _Inode()

        def make() -> None:
            inode.change(_Change(size, None))
            self._change_names([(path, inode)])

        self._call("create", path, make)
        return SimulatedFile(self, inode, path, True)

    def open(self, path: str, *, writable: bool = False) -> SimulatedFile:
        return SimulatedFile(self, self._find(path), path, writable)

    def exists(self, path: str) -> bool:
        return path in self._names or path.rstrip("/") in self._directories

    def list_directory(self, path: str) -> list[str]:
        path = path.rstrip("/")
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        prefix = f"{path}/"
        names = {name[len(prefix) :] for name in (*self._names, *self._directories) if name.startswith(prefix)}
        return sorted(name for name in names if name and "/" not in name)

    def rename(self, old: str, new: str) -> None:
        inode = self._find(old)
        self._call("rename", new, lambda: self._change_names([(old, None), (new, inode)]))

    def remove(self, path: str) -> None:
        self._find(path)
        self._call("remove", path, lambda: self._change_names([(path, None)]))

    def make_directory(self, path: str) -> None:
        parts = path.rstrip("/").split("/")
        for count in range(1, len(parts) + 1):
            self._directories.add("/".join(parts[:count]))

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory", path, lambda: self._sync_names(f"{path.rstrip('/')}/"))

    def lock(self, path: str) -> SimulatedLock:
        if path in self._locks:
            raise DirectoryInUse(f"{path} is locked by another node of this simulation")
        self._locks.add(path)
        if path not in self._names:
            inode = self._names[path] = self._durable_names[path] = _Inode()
            inode.sync()
        return SimulatedLock(self, path)

    # Inside

    def _find(self, path: str) -> _Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from None

    def _need_directory(self, path: str) -> None:
        if path.rpartition("/")[0] not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def _need_room(self, size: int, path: str) -> None:
        if size > 0 and self.free_bytes < UNLIMITED and size > self.free_bytes:
            raise OSError(errno.ENOSPC, "No space left on device", path)

    def _change_names(self, renaming: _Renaming) -> None:
        _rename(self._names, renaming)
        self._pending_names.append(renaming)

    def _sync_names(self, prefix: str) -> None:
        self._wait_for_sync(prefix)
        later: list[_Renaming] = []
        for renaming in self._pending_names:
            if renaming[0][0].startswith(prefix):
                _rename(self._durable_names, renaming)
            else:
                later.append(renaming)
        self._pending_names = later

    def _wait_for_sync(self, path: str) -> None:
        self.syncs += 1
        self.waited += self.latency
        if self.fail_syncs:
            raise OSError(errno.EIO, "Input/output error", path)

    def _call(self, name: str, path: str, change: Callable[[], None]) -> None:
        """One call that changes something; power may be lost in it."""
        self.calls += 1
        if self.watch is not None:
            self.watch(name, path)
        if self.calls != self._crash_at:
            change()
            return
        if self.rng.random() < 0.5:
            change()
        raise self._crash_error(f"in {name} of {path}")


def _rename(names: dict[str, _Inode], renaming: _Renaming) -> None:
    for path, inode in renaming:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


class SimulatedFile:
    """An open file of a SimulatedDisk."""

    __slots__ = ("_disk", "_epoch", "_inode", "_path", "_writable")

    def __init__(self, disk: SimulatedDisk, inode: _Inode, path: str, writable: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._path = path
        self._writable = writable
        self._epoch = disk._epoch

    def pread(self, size: int, offset: int) -> bytes:
        self._need_alive()
        return bytes(self._inode.seen[offset : offset + size])

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        content = bytes(data)
        disk, inode = self._disk, self._inode
        self._need_writable()
        disk._need_room(offset + len(content) - len(inode.seen), self._path)
        disk._call("pwrite", self._path, lambda: inode.change(_Change(offset, content)))
        if disk.tear_next_write and len(content) > SECTOR_BYTES:
            raise Crashed(f"in the middle of a write to {self._path}")

    def truncate(self, size: int) -> None:
        disk, inode = self._disk, self._inode
        self._need_writable()
        disk._need_room(size - len(inode.seen), self._path)
        disk._call("truncate", self._path, lambda: inode.change(_Change(size, None)))

    def size(self) -> int:
        self._need_alive()
        return len(self._inode.seen)

    def sync(self) -> None:
        self._need_alive()
        self._disk._call("sync", self._path, self._sync)

    def _sync(self) -> None:
        disk, inode = self._disk, self._inode
        if disk.fail_syncs:
            disk._settle(inode, disk.rng.choice((0.0, 0.5)))
        disk._wait_for_sync(self._path)
        inode.sync()

    def close(self) -> None:
        pass

    def _need_alive(self) -> None:
        if self._epoch != self._disk._epoch:
            raise Crashed(f"{self._path} was opened before a crash")

    def _need_writable(self) -> None:
        self._need_alive()
        if not self._writable:
            raise OSError(errno.EBADF, "Bad file descriptor", self._path)


class SimulatedLock:
    """A lock of a SimulatedDisk."""

    __slots__ = ("_disk", "_epoch", "_path")

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._epoch = disk._epoch

    def release(self) -> None:
        if self._epoch == self._disk._epoch:
            self._disk._locks.discard(self._path)
