"""A whole folder is read with a progress bar: what `raft verify` and `raft repair` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from raftlog.management.output import Output
from raftlog.management.progress import byte_progress
from raftlog.runtime import clock
from raftlog.storage.filesystem import FileSystem
from raftlog.storage.verify import Finding, check_directory, still_found, total_bytes

LOOK_AGAIN: Final = (0.2, 1.0)  # seconds before what may be a write under way is looked at again


@dataclass(slots=True)
class CheckedFolder:
    """What was read and found. `entries` counts those that a truncation made void, too."""

    findings: list[Finding] = field(default_factory=list)
    segments: int = 0
    read_bytes: int = 0
    entries: int = 0


def check_folder(filesystem: FileSystem, directory: str, output: Output) -> CheckedFolder:
    """Read everything, and again what a running owner may have been writing. Raises OSError."""
    checked = CheckedFolder()
    paths = set()
    total = total_bytes(filesystem, directory)
    with byte_progress(output, "reading the log") as progress:
        for seen in check_directory(filesystem, directory):
            if isinstance(seen, Finding):
                checked.findings.append(seen)
                continue
            paths.add(seen.path)
            checked.read_bytes += seen.size
            checked.entries += seen.entries
            progress(checked.read_bytes, total)
    checked.segments = len(paths)
    for wait in LOOK_AGAIN:
        if any(finding.is_in_use for finding in checked.findings):
            clock.sleep(wait)
            checked.findings = still_found(filesystem, directory, checked.findings)
    return checked


def finding_as_data(finding: Finding) -> dict[str, Any]:
    return {"path": finding.path, "offset": finding.offset, "what": finding.what, "entries": finding.entries}
