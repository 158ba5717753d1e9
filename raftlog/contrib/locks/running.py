"""Running a command of the shell while a lock is held: for `raft lock` and `raft only-on-leader`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from raftlog import clock
from raftlog.contrib.locks.fence import Fence

LOST: Final = 76  # exit code where the lock was lost and the command was ended for it
NOT_HELD: Final = 75  # where the lock was not to be had, and the command was not run
LONGEST_GRACE: Final = 10.0  # seconds between SIGTERM and SIGKILL
GRACE: Final = 0.2  # the same, of the ttl
TELL_INTERVAL: Final = 0.1  # seconds between two messages to the warden


class Stopped(BaseException):
    """A signal came while the lock was waited for."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"signal {number}")


class Signals:
    """Takes SIGTERM, SIGINT and SIGHUP while it is entered, which must be in the main thread; remembers the first.

    They are passed on to a command that runs. Ctrl-C in a terminal reaches that by itself.
    """

    def __init__(self) -> None:
        self.received = 0
        self._target: subprocess.Popen[bytes] | None = None
        self._is_waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def end_waiting(self) -> Iterator[None]:
        """Inside, one that comes raises Stopped."""
        self._is_waiting = True
        try:
            if self.received:
                raise Stopped(self.received)
            yield
        finally:
            self._is_waiting = False

    @contextmanager
    def passed_on_to(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        self._target = process
        try:
            if self.received:
                process.send_signal(self.received)
            yield
        finally:
            self._target = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if self._is_waiting:
            raise Stopped(number)
        if self._target is not None and not (number == signal.SIGINT and has_terminal()):
            self._target.send_signal(number)


def has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def run_under(fence: Fence, command: Sequence[str], signals: Signals, *, say: Callable[[str], None]) -> int:
    """Run it to its end. Returns its exit code; 128 + N where signal N ended it; LOST.

    It finds the token in RAFTLOG_FENCE and the lock's name in RAFTLOG_LOCK. It runs in a process group of its own,
    unless it is given a terminal: then only itself is ended, not what it has started.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    environment = os.environ | {"RAFTLOG_FENCE": str(fence.token), "RAFTLOG_LOCK": fence.name}
    warden = Path(__file__).with_name("warden.py")
    grace = min(fence.ttl * GRACE, LONGEST_GRACE)
    _tell(write_end, fence)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(warden), str(read_end), str(grace), str(int(not has_terminal())), *command],
        env=environment,
        pass_fds=[read_end],
        # Ctrl-C in the terminal is passed on by the kernel; elsewhere by _take().
        process_group=None if has_terminal() else 0,
    )
    os.close(read_end)
    try:
        with signals.passed_on_to(process):
            while True:
                try:
                    code = process.wait(TELL_INTERVAL)
                    break
                except subprocess.TimeoutExpired:
                    _tell(write_end, fence)
    finally:
        os.close(write_end)
    if code == LOST and not fence.is_valid:
        say(f"the lock {fence.name!r} (token {fence.token}) was lost, and {command[0]} ended for it")
    return 128 - code if code < 0 else code  # below zero: the warden itself was killed, and the command with it


def _tell(pipe: int, fence: Fence) -> None:
    remaining = fence.remaining
    line = f"{clock.monotonic() + remaining:.3f}\n" if remaining else "lost\n"
    try:
        os.write(pipe, line.encode())
    except (BlockingIOError, BrokenPipeError):
        return  # it is stopped, or has ended: the next look says which
