"""A disk in memory whose every possible state after a crash can be enumerated (for crash_points).

It keeps apart what a process sees, what is durable, and what is *pending*: changes that a crash may
keep or lose, each by itself. The unit of a file's change is a sector of 512 bytes, or its size; the
unit of a directory's is one create, rename or remove. `on_call` is called before each call that
changes anything, which is where a crash is tried.

This is harsher than real file systems, which order some of it: what holds here holds there.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from raftlog.storage.filesystem import SECTOR_BYTES, Buffer, File, Lock

# Up to so many pending changes all their subsets are tried: 2 ** 7 = 128 states.
ALL_SUBSETS_UP_TO: Final = 7


@dataclass(slots=True)
class Change:
    """One pending change of a file: a sector's bytes, or (data None) its size."""

    offset: int
    data: bytes | None


@dataclass(slots=True)
class Inode:
    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def change(self, change: Change) -> None:
        apply_change(self.seen, change)
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            apply_change(self.durable, change)
        self.pending.clear()

    def clone(self) -> Inode:
        return Inode(self.seen[:], self.durable[:], self.pending[:])


def apply_change(data: bytearray, change: Change) -> None:
    """Make `data` longer, shorter or different, as the change says."""
    if change.data is None:
        del data[change.offset :]
        data.extend(bytes(change.offset - len(data)))
        return
    end = change.offset + len(change.data)
    data.extend(bytes(max(0, end - len(data))))
    data[change.offset : end] = change.data


@dataclass(slots=True)
class NameChange:
    """One pending change of a directory: `removed` goes, `added` comes and means `inode`; "" for neither."""

    removed: str
    added: str
    inode: int

    def apply(self, names: dict[str, int]) -> None:
        names.pop(self.removed, None)
        if self.added:
            names[self.added] = self.inode


class CrashDisk:
    """A `storage.filesystem.FileSystem` in memory. All files lie in one directory."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {}
        self.names: dict[str, int] = {}
        self.durable_names: dict[str, int] = {}
        self.pending_names: list[NameChange] = []
        self.directories: set[str] = set()
        self.on_call: Callable[[str], None] = lambda call: None
        # Sectors that the next writes still take before ENOSPC; None: no limit.
        self.room: int | None = None
        self.calls = 0

    # Crash states

    def clone(self) -> CrashDisk:
        """The same disk for another process: what was pending still is (the process was killed, power stayed)."""
        other = CrashDisk()
        other.inodes = {number: inode.clone() for number, inode in self.inodes.items()}
        other.names = dict(self.names)
        other.durable_names = dict(self.durable_names)
        other.pending_names = list(self.pending_names)
        other.directories = set(self.directories)
        return other

    def pending_count(self) -> int:
        """Changes that a crash may keep or lose."""
        return len(self.pending_names) + sum(len(inode.pending) for inode in self.inodes.values())

    def after_crash(self, kept: tuple[bool, ...]) -> CrashDisk:
        """The disk after a crash that keeps the pending changes whose flag is True (in pending order)."""
        flags = iter(kept)
        other = CrashDisk()
        other.directories = set(self.directories)
        for number, inode in self.inodes.items():
            data = inode.durable[:]
            for change in inode.pending:
                if next(flags):
                    apply_change(data, change)
            other.inodes[number] = Inode(data, data[:])
        names = dict(self.durable_names)
        for name_change in self.pending_names:
            if next(flags):
                name_change.apply(names)
        other.names, other.durable_names = names, dict(names)
        other.inodes = {number: inode for number, inode in other.inodes.items() if number in names.values()}
        return other

    def crash_choices(self, rng: random.Random, samples: int) -> Iterator[tuple[bool, ...]]:
        """Subsets of the pending changes: all where they are few; else none, all, some prefixes, `samples` drawn."""
        count = self.pending_count()
        if count <= ALL_SUBSETS_UP_TO:
            yield from product((False, True), repeat=count)
            return
        yield (False,) * count
        yield (True,) * count
        for number in rng.sample(range(count), min(count, samples // 4)):
            yield (True,) * number + (False,) * (count - number)
            yield (True,) * number + (False,) + (True,) * (count - number - 1)
        for _ in range(samples):
            share = rng.random()
            yield tuple(rng.random() < share for _ in range(count))

    # FileSystem

    def _call(self, call: str) -> None:
        self.calls += 1
        self.on_call(call)

    def create(self, path: str, size: int) -> File:
        self._call(f"create {path}")
        if path in self.names:
            raise FileExistsError(errno.EEXIST, "exists", path)
        if self.room is not None and size > self.room * SECTOR_BYTES:
            raise OSError(errno.ENOSPC, "no room", path)
        number = max(self.inodes, default=0) + 1
        inode = self.inodes[number] = Inode()
        self._rename(NameChange("", path, number))
        inode.change(Change(size, None))
        return CrashFile(self, inode, path)

    def _rename(self, change: NameChange) -> None:
        change.apply(self.names)
        self.pending_names.append(change)

    def open(self, path: str, *, writable: bool = False) -> File:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return CrashFile(self, self.inodes[self.names[path]], path)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.directories

    def list_directory(self, path: str) -> list[str]:
        return sorted(name[len(path) + 1 :] for name in self.names if name.startswith(f"{path}/"))

    def rename(self, old: str, new: str) -> None:
        self._call(f"rename {old} {new}")
        self._rename(NameChange(old, new, self.names[old]))

    def remove(self, path: str) -> None:
        self._call(f"remove {path}")
        self._rename(NameChange(path, "", self.names[path]))

    def make_directory(self, path: str) -> None:
        self.directories.add(path)

    def sync_directory(self, path: str) -> None:
        self._call(f"sync_directory {path}")
        for change in self.pending_names:
            change.apply(self.durable_names)
        self.pending_names.clear()

    def lock(self, path: str) -> Lock:
        return CrashLock()


class CrashLock:
    """Each CrashDisk has one process, so its lock is always free."""

    def release(self) -> None:
        pass


class CrashFile:
    """An open file of a CrashDisk."""

    def __init__(self, disk: CrashDisk, inode: Inode, path: str) -> None:
        self._disk = disk
        self._inode = inode
        self._path = path

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._inode.seen[offset : offset + size])

    def pwrite(self, data: Buffer, offset: int) -> None:
        self._disk._call(f"pwrite {self._path} {len(data)} at {offset}")
        data = bytes(data)
        start = 0
        while start < len(data):
            if self._disk.room is not None:
                if self._disk.room == 0:
                    raise OSError(errno.ENOSPC, "no room", self._path)
                self._disk.room -= 1
            stop = min(len(data), start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES)
            self._inode.change(Change(offset + start, data[start:stop]))
            start = stop

    def truncate(self, size: int) -> None:
        self._disk._call(f"truncate {self._path} {size}")
        self._inode.change(Change(size, None))

    def size(self) -> int:
        return len(self._inode.seen)

    def sync(self) -> None:
        self._disk._call(f"sync {self._path}")
        self._inode.sync()

    def close(self) -> None:
        pass
