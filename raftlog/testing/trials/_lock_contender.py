"""A process of the locks trial: threads that want one lock, and write down every moment at which they surely held it.

    python -m raftlog.testing.trials._lock_contender '{"name": …, "folder": …, "threads": …, "ttl": …, …}'

Each thread has a file; a line is written at once, so that it outlives SIGKILL: a letter, the token, and the time
on the machine's one clock, read *before* what it says was found out.

    A asked for the lock    E entered    C fence.check() passed    L fence.check() raised    X left
    T not had in time       F another error    W the resource took a write    R the resource refused it
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import django

from raftlog.runtime import clock

WAITS = (1.0, 5.0, 20.0)  # seconds


class Resource:
    """What the lock protects, outside raftlog: a file with the newest token that it has seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, token: int) -> bool:
        """False: refused, a newer token has been here."""
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            newest = int(file.read() or 0)
            if token < newest:
                return False
            file.truncate(0)
            file.write(str(token))
        return True


class Contender(threading.Thread):
    def __init__(self, options: dict[str, Any], number: int, stopping: threading.Event) -> None:
        super().__init__()
        self.options = options
        self.rng = random.Random(f"{options['seed']}:{number}")
        self.stopping = stopping
        path = Path(options["folder"]) / f"{options['process']}-{number}.log"
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.holder = Path(options["folder"]) / "holder"  # for whoever wants to stop it
        self.resource = Resource(Path(options["folder"]) / "resource")

    def say(self, letter: str, token: int = 0, at: float | None = None) -> None:
        at = clock.monotonic() if at is None else at
        os.write(self.file, f"{letter} {token} {at:.6f}\n".encode())

    def run(self) -> None:
        while not self.stopping.is_set():
            self.attempt()
            self.stopping.wait(self.rng.uniform(0, 0.3))

    def attempt(self) -> None:
        import raftlog
        from raftlog.contrib import locks
        from raftlog.exceptions import RaftlogError

        self.say("A")
        try:
            with raftlog.lock(self.options["name"], ttl=self.options["ttl"], wait=self.rng.choice(WAITS)) as fence:
                self.say("E", fence.token)
                self.holder.write_text(str(self.options["number"]))
                self.hold(fence)
        except locks.LockNotAcquired:
            self.say("T")
        except locks.LockLost:
            self.say("X")
        except RaftlogError as error:
            self.say("F")
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        else:
            self.say("X")

    def hold(self, fence: Any) -> None:
        is_long = self.rng.random() < 0.3
        until = clock.monotonic() + self.rng.uniform(0, 1.5 * self.options["ttl"] if is_long else 0.05)
        while True:
            at = clock.monotonic()
            try:
                fence.check()
            except Exception:
                self.say("L", fence.token, at)
                if self.rng.random() < 0.5:  # as one who does not look: the resource has to refuse it
                    self.say("W" if self.resource.write(fence.token) else "R", fence.token)
                raise
            self.say("C", fence.token, at)
            if at >= until:
                break
            clock.sleep(self.rng.uniform(0, 0.02))
        self.say("W" if self.resource.write(fence.token) else "R", fence.token)


def tell_of_messages(options: dict[str, Any]) -> None:
    """Say when a renewal, or an acquire that can succeed, is on its way: for whoever wants to stop us just then."""
    from raftlog.contrib.locks.attempt import Attempt
    from raftlog.contrib.locks.keeper import Keeper

    renew, arguments = Keeper._renew, Attempt.arguments
    folder, number = Path(options["folder"]), str(options["number"])

    def renewing(self: Keeper, due: dict[str, Any]) -> None:
        (folder / "renewing").write_text(number)
        renew(self, due)

    def asking(self: Attempt) -> dict[str, Any]:
        holders, waiters = self._rows
        if not holders and waiters and waiters[0].owner == self.owner:
            (folder / "asking").write_text(number)
        return arguments(self)

    Keeper._renew = renewing  # type: ignore[method-assign]
    Attempt.arguments = asking  # type: ignore[method-assign]


def mutate(name: str) -> None:
    """Break the fence as a careless implementation would."""
    from raftlog.contrib.locks.fence import Fence

    if name == "local-clock-after":  # the ttl is counted from when the answer came
        make, renewed = Fence.__init__, Fence.renewed

        def made(self: Fence, *, sent_at: float, **arguments: Any) -> None:
            make(self, sent_at=clock.monotonic(), **arguments)

        Fence.__init__ = made  # type: ignore[method-assign]
        Fence.renewed = lambda self, sent_at: renewed(self, clock.monotonic())  # type: ignore[method-assign]
    elif name == "no-expiry":  # only what a renewal says counts
        Fence._remaining = lambda self: 0.0 if self._lost else self.ttl  # type: ignore[method-assign]
    elif name:
        raise SystemExit(f"no such mutation: {name}")


def main() -> None:
    options = json.loads(sys.argv[1])
    django.setup()
    mutate(options["mutation"])
    tell_of_messages(options)
    stopping = threading.Event()
    threads = [Contender(options, number, stopping) for number in range(options["threads"])]
    for thread in threads:
        thread.start()
    sys.stdin.read()  # until the trial closes it
    stopping.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
