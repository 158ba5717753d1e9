"""What the holder of a lock has in hand: the token, and until when the lock is surely held.

The lock expires by the lock clock in the log, which is at most a tenth faster than real time; the holder counts by this
machine's own clock, from *before* the acquire or renewal was sent, and stops well before the log can.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from raftlog import clock
from raftlog.contrib.locks.exceptions import LockLost

# Part of the ttl that the holder counts on. The log's clock may run a tenth faster than real time (LogClock's
# MAX_STEERING), which leaves 0.909; the rest is for clocks of two machines that do not run at the same speed.
SURE: Final = 0.85


class Fence:
    """A lock that is held. Thread-safe. In a forked child it is not held: it is the parent's."""

    def __init__(
        self, *, name: str, owner: str, token: int, ttl: float, sent_at: float, on_lost: Callable[[Fence], Any] | None
    ) -> None:
        self.name = name
        self.owner = owner
        # Grows from holder to holder of the lock, over all hosts. Give it to what the lock protects.
        self.token = token
        self.ttl = ttl  # seconds
        self._guard = threading.Lock()
        self._sure_until = sent_at + ttl * SURE  # by clock.monotonic()
        self._lost = ""  # why; once lost, it stays lost
        self._on_lost = on_lost
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Fence {self.name!r} token {self.token}, {self.remaining:.1f} s left>"

    @property
    def remaining(self) -> float:
        """Seconds for which it is surely held if no renewal comes through; 0.0: lost."""
        if not self.is_mine:  # a thread of the parent's may hold _guard, for ever
            return 0.0
        with self._guard:
            return self._remaining()

    @property
    def is_valid(self) -> bool:
        return self.remaining > 0

    @property
    def is_mine(self) -> bool:
        """Whether this process acquired it; False in a fork of that."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises LockLost where the lock is not surely held now. Asks nobody: it compares two numbers.

        The process may be stopped right after it. So what must never be done twice checks the token itself:
        guard(), or a comparison of your own in the protected resource.
        """
        if self.is_mine:
            with self._guard:
                if self._remaining() > 0:
                    return
                reason = self._lost
        else:  # a thread of the parent's may hold _guard, for ever
            reason = f"process {self._pid} holds it, and this one is a fork of that"
        raise LockLost(f"the lock {self.name!r} (token {self.token}) is not held any more: {reason}")

    def guard(self, resource: str) -> None:
        """check(), and guard(resource, token): call it in the transaction that changes the resource.

        Raises LockLost, StaleToken.
        """
        from raftlog.contrib.locks.tables import guard

        self.check()
        guard(resource, self.token)

    # For those who keep it

    def renewed(self, sent_at: float) -> None:
        """A renewal that was sent then is applied."""
        with self._guard:
            if self._remaining() > 0:
                self._sure_until = max(self._sure_until, sent_at + self.ttl * SURE)

    def lost(self, reason: str) -> None:
        """It is not held any more. Tells who asked to be told, once."""
        with self._guard:
            self._lost = self._lost or reason
            on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self)

    def _remaining(self) -> float:
        """_guard: held. Once lost it stays lost: a renewal that comes too late changes nothing."""
        left = self._sure_until - clock.monotonic()
        if not self._lost and left <= 0:
            self._lost = "it was not renewed in time"
        return 0.0 if self._lost else left
