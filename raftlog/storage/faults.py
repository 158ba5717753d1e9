"""Disk faults for tests of real processes, switched on by an environment variable.

`RAFTLOG_TEST_STORAGE_FAULTS` names a JSON file. While it is set, every call to the disk first looks
whether that file has changed, so that a test makes the disk of a running node fail, fill or stall:

    {"sync": {"errno": "EIO"}}          every fdatasync fails (also: "write", "create")
    {"write": {"errno": "ENOSPC"}}      the disk is full (spares the hard state, whose space is reserved)
    {"sync": {"delay": 0.05}}           a slow disk: seconds added to each call
    {"sync": {"stall": true}}           the disk hangs until the file changes
    {"sync": {"errno": "EIO", "match": ".segment"}}   only for paths that contain this
    {}                                  all is well again (so does removing the file)

"fdatasync" is understood for "sync", and `"fail": true` for `"errno": "EIO"`. Not for production: a
node warns about nothing here, and the variable costs a stat() for each call.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Final

import msgspec

from raftlog.storage.filesystem import Buffer, File, FileSystem, Lock, RealFileSystem
from raftlog.storage.layout import HARD_STATE

ENVIRONMENT_VARIABLE: Final = "RAFTLOG_TEST_STORAGE_FAULTS"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_STALL_POLL: Final = 0.01  # seconds


def default_filesystem() -> FileSystem:
    """The operating system's files; with faults where the environment variable is set."""
    control = os.environ.get(ENVIRONMENT_VARIABLE)
    return FaultyFileSystem(RealFileSystem(), control) if control else RealFileSystem()


class FaultControl:
    """Reads the control file when it has changed, and carries out what it says."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._faults: dict[str, dict[str, Any]] = {}

    def meet(self, operation: str, path: str) -> None:
        """Delay, hang or raise OSError as the control file says for this operation ("write", "sync", "create")."""
        fault = self._fault(operation, path)
        if delay := fault.get("delay"):
            time.sleep(delay)
        while fault.get("stall"):
            time.sleep(_STALL_POLL)
            fault = self._fault(operation, path)
        name = fault.get("errno") or ("EIO" if fault.get("fail") else "")
        if name:
            number = getattr(errno, name)
            if number in _NO_ROOM and operation == "write" and path.endswith(f"/{HARD_STATE}"):
                return
            raise OSError(number, f"{os.strerror(number)} (on command of {ENVIRONMENT_VARIABLE})", path)

    def _fault(self, operation: str, path: str) -> dict[str, Any]:
        self._reload()
        fault = self._faults.get(operation) or (self._faults.get("fdatasync") if operation == "sync" else None)
        return fault if fault and fault.get("match", "") in path else {}

    def _reload(self) -> None:
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            with open(self._path, "rb") as file:
                self._faults = msgspec.json.decode(file.read() or b"{}", type=dict[str, dict[str, Any]])
            self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._faults = None, {}
        except msgspec.DecodeError:
            self._stamp = None  # read while it was being written: the next call sees it whole


class FaultyFile:
    """A file whose writes and syncs meet faults."""

    __slots__ = ("_control", "_file", "_path")

    def __init__(self, file: File, path: str, control: FaultControl) -> None:
        self._file = file
        self._path = path
        self._control = control

    def pread(self, size: int, offset: int) -> bytes:
        return self._file.pread(size, offset)

    def pwrite(self, data: Buffer, offset: int) -> None:
        self._control.meet("write", self._path)
        self._file.pwrite(data, offset)

    def truncate(self, size: int) -> None:
        self._control.meet("write", self._path)
        self._file.truncate(size)

    def size(self) -> int:
        return self._file.size()

    def sync(self) -> None:
        self._control.meet("sync", self._path)
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class FaultyFileSystem:
    """A file system whose calls meet the faults of a control file."""

    def __init__(self, filesystem: FileSystem, control_path: str) -> None:
        self._filesystem = filesystem
        self._control = FaultControl(control_path)

    def create(self, path: str, size: int) -> File:
        self._control.meet("create", path)
        self._control.meet("write", path)  # a full disk has no room for a new file either
        return FaultyFile(self._filesystem.create(path, size), path, self._control)

    def open(self, path: str, *, writable: bool = False) -> File:
        return FaultyFile(self._filesystem.open(path, writable=writable), path, self._control)

    def exists(self, path: str) -> bool:
        return self._filesystem.exists(path)

    def list_directory(self, path: str) -> list[str]:
        return self._filesystem.list_directory(path)

    def rename(self, old: str, new: str) -> None:
        self._filesystem.rename(old, new)

    def remove(self, path: str) -> None:
        self._filesystem.remove(path)

    def make_directory(self, path: str) -> None:
        self._filesystem.make_directory(path)

    def sync_directory(self, path: str) -> None:
        self._control.meet("sync", path)
        self._filesystem.sync_directory(path)

    def lock(self, path: str) -> Lock:
        return self._filesystem.lock(path)
