"""What the figures were measured on, and how busy it was."""

from __future__ import annotations

import dataclasses
import os
import platform
import sqlite3
from pathlib import Path

import raftlog
from benchmarks import systems
from benchmarks.systems.servers import version_installed
from raftlog.testing.bench.floor import sync_of_a_small_append

PACKAGES = ("Django", "channels", "daphne", "Twisted", "autobahn", "websockets", "msgspec")
SYNC_SECONDS = 0.5  # of measuring the disk
BUSY = 0.5  # processes that wanted to run before the benchmark began, for each core


@dataclasses.dataclass
class Machine:
    """`load_*` are the averages of a minute: processes that wanted to run. `sync_ms`: fdatasync of a small append."""

    cores: int
    model: str
    memory_gib: float
    kernel: str
    file_system: str
    sync_ms: float
    versions: dict[str, str]
    load_before: float
    load_after: float = 0.0

    @property
    def was_busy(self) -> bool:
        """Whether something else ran when the benchmark began: then its ratios say more than its figures."""
        return self.load_before > BUSY * self.cores


def describe(folder: Path) -> Machine:
    """The machine as it is now; `folder` is on the file system that is measured."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        model=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=f"{platform.system()} {platform.release()}",
        file_system=file_system(folder),
        sync_ms=round(1000 * sync_of_a_small_append(folder, SYNC_SECONDS), 3),
        versions=versions(),
        load_before=round(os.getloadavg()[0], 2),
    )


def versions() -> dict[str, str]:
    """Of ours, of what it stands on, and of every peer that is installed here."""
    found = {
        "raftlog": raftlog.__version__,
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{name: version_installed(name) for name in PACKAGES},
    }
    for system in systems.find().values():
        found |= system.versions()
    return {name: version for name, version in found.items() if version}


def file_system(folder: Path) -> str:
    """The kind of the file system that holds `folder`; "unknown" where the system does not say."""
    path = os.path.realpath(folder)
    best, kind = "", "unknown"
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind  # not Linux
    for line in lines:
        _, mounted_on, found, *_ = line.split()
        inside = mounted_on == "/" or path == mounted_on or path.startswith(mounted_on + "/")
        if inside and len(mounted_on) >= len(best):
            best, kind = mounted_on, found
    return kind


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""  # not Linux
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
