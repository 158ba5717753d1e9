"""The small process between `raft lock` and the command that it runs: ends the command before the lock is another's.

Run as a script, in a Python without site-packages. It gets the moment until which the lock is surely held over a pipe,
again and again. Should those moments stop coming (the parent was stopped, killed, or cut off from the cluster), it
sends the command SIGTERM a grace before that moment, and SIGKILL at it. So a parent under SIGSTOP is no reason for
two commands to run. Moments are on the clock that goes on while the machine sleeps.

    warden.py PIPE GRACE GROUP COMMAND...

Exit code: the command's; 128 + N where signal N ended it; LOST where the warden did.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

LOST = 76
NOT_STARTED = 127
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    return time.clock_gettime(_CLOCK)


class Moments:
    """What the parent says. `until`: the lock is surely held until then. `is_lost`: it is known not to be held."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.is_open = True
        self.is_lost = False
        self.until = now() + 3600.0  # the first one is in the pipe already
        self._rest = b""

    def read(self) -> None:
        data = os.read(self.pipe, 65_536)
        if not data:
            self.is_open = False
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line == b"lost":
                self.is_lost = True
            else:
                self.until = float(line)


class Warden:
    """One command. `group`: it has a process group of its own, all of which is ended."""

    def __init__(self, command: list[str], grace: float, group: bool) -> None:
        self.grace = grace
        self.group = group
        self.kill_at: float | None = None  # it was told to end
        self.is_lost = False
        self.child = subprocess.Popen(command, process_group=0 if group else None, preexec_fn=die_with_parent)

    def send(self, number: int) -> None:
        if self.child.poll() is None:
            if self.group:
                os.killpg(self.child.pid, number)
            else:
                self.child.send_signal(number)

    def look(self, moments: Moments) -> float:
        """Do what is due. Returns the seconds until it may be due again."""
        at = now()
        if self.kill_at is None:
            if moments.is_lost or not moments.is_open:
                self._terminate(min(at + self.grace, max(moments.until, at)), moments)
            elif at >= moments.until - self.grace:
                self._terminate(moments.until, moments)
            else:
                return moments.until - self.grace - at
        assert self.kill_at is not None
        if at >= self.kill_at:
            self.send(signal.SIGKILL)
            return 1.0
        return self.kill_at - at

    def _terminate(self, kill_at: float, moments: Moments) -> None:
        self.kill_at = kill_at
        self.is_lost = True
        self.send(signal.SIGTERM)

    def exit_code(self) -> int:
        code = self.child.wait()
        if self.group:  # what the command has left behind
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.group = False
        if self.is_lost:
            return LOST
        return 128 - code if code < 0 else code


def die_with_parent() -> None:
    """Where the kernel offers it (Linux): SIGKILL to the command when the warden is killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def main(pipe: int, grace: float, group: bool, command: list[str]) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    moments = Moments(pipe)
    moments.read()
    # A signal that comes while the command is being started is passed on to it afterwards, and not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        warden = Warden(command, grace, group)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return NOT_STARTED
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: warden.send(received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    while warden.child.poll() is None:
        timeout = warden.look(moments)
        watched = [wake_read, pipe] if moments.is_open else [wake_read]
        ready, _, _ = select.select(watched, [], [], max(timeout, 0.0))
        if wake_read in ready:
            os.read(wake_read, 4096)
        if pipe in ready:
            moments.read()
    return warden.exit_code()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "1", sys.argv[4:]))
