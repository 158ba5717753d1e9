"""The scrubber: reads the whole folder anew from time to time, slowly, and checks every checksum.

Waits for: the time of its next pass; and between pieces, so that it reads no faster than it may.
Does: storage.verify, beside the owner, without the monitor. What it finds twice is told, once.
Ends when it is asked to; joined by the node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from raftlog.runtime import clock
from raftlog.runtime.threads import NodeThread
from raftlog.storage.filesystem import FileSystem
from raftlog.storage.verify import Finding, check_directory, still_found, total_bytes

FIRST_DELAY: Final = 60.0  # seconds after the start, which has other things to do
PASS_INTERVAL: Final = 3600.0  # seconds between the beginnings of two passes, at least
LOOK_AGAIN: Final = (0.2, 1.0)  # seconds before what may be a write under way is looked at again
MIN_WAIT: Final = 0.02  # seconds; shorter waits are put together


class Scrubber:
    """One thread over one folder. start() once, ask_to_stop() and join() once; status() and findings from any thread.

    `on_finding` is called in the thread, once for each.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        directory: str,
        node_id: str,
        bytes_per_second: int,
        on_finding: Callable[[Finding], None],
        on_death: Callable[[str, BaseException], None],
        *,
        first_delay: float = FIRST_DELAY,
        pass_interval: float = PASS_INTERVAL,
    ) -> None:
        # Of the pass under way and the one before it. Replaced, not changed.
        self.findings: tuple[Finding, ...] = ()
        self.passes = 0
        self._filesystem = filesystem
        self._directory = directory
        self._rate = bytes_per_second
        self._on_finding = on_finding
        self._first_delay = first_delay
        self._pass_interval = pass_interval
        self._stopping = threading.Event()
        self._read = self._total = 0
        self._owed = 0.0  # seconds that the pieces read since the last wait were worth
        self._last_pass: dict[str, Any] | None = None
        self.thread = NodeThread(f"raftlog-{node_id}-scrub", self._main, on_death)

    def start(self) -> None:
        self.thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def join(self, timeout: float) -> list[str]:
        """Its name where it has not ended within `timeout` seconds."""
        return [] if self.thread.join(timeout) else [self.thread.name]

    def status(self) -> dict[str, Any]:
        return {
            "bytes_per_second": self._rate,
            "doing": self.thread.doing,
            "read_bytes": self._read,
            "total_bytes": self._total,
            "passes": self.passes,
            "last_pass": self._last_pass,
            "findings": [str(finding) for finding in self.findings],
        }

    def _main(self) -> None:
        self.thread.now_doing("waiting for its first pass")
        delay = self._first_delay
        while not self._stopping.wait(delay):
            began_at = clock.monotonic()
            if not self._pass():
                return
            seconds = clock.monotonic() - began_at
            self.passes += 1
            self._last_pass = {
                "ended_at": clock.wall_microseconds() / 1e6,
                "seconds": round(seconds, 3),
                "read_bytes": self._read,
                "findings": len(self.findings),
            }
            self.thread.now_doing("waiting for its next pass")
            delay = max(0.0, self._pass_interval - seconds)

    def _pass(self) -> bool:
        """Read everything once. False where it was asked to stop."""
        self._read, self._total = 0, total_bytes(self._filesystem, self._directory)
        found: list[Finding] = []
        for seen in check_directory(self._filesystem, self._directory):
            if not isinstance(seen, Finding):
                self._read += seen.size
                self.thread.now_doing(f"reading {seen.path}")
                if not self._pace(seen.size):
                    return False
            elif self._is_real(seen):
                found.append(seen)
                self._tell(seen)
        self.findings = tuple(found)
        return not self._stopping.is_set()

    def _pace(self, size: int) -> bool:
        self._owed += size / self._rate
        if self._owed < MIN_WAIT:
            return True
        wait, self._owed = self._owed, 0.0
        return not self._stopping.wait(wait)

    def _is_real(self, finding: Finding) -> bool:
        for wait in LOOK_AGAIN if finding.is_in_use else ():
            self._stopping.wait(wait)
            if not still_found(self._filesystem, self._directory, [finding]):
                return False
        return True

    def _tell(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings = (*self.findings, finding)
            self._on_finding(finding)
