"""What locks raise. A class's docstring is what it means to the one who catches it."""

from __future__ import annotations

from raftlog.exceptions import RaftlogError


class LockError(RaftlogError):
    """Base of what locks raise."""


class LockNotAcquired(LockError):
    """The lock could not be had within `wait` seconds. Nothing is held; the text says who holds it."""


class LockLost(LockError):
    """The lock is not surely held any more, and somebody else may hold it: stop what it protects."""


class AlreadyHeld(LockError):
    """This thread (or task) holds the lock already, and would wait for itself. Locks are not reentrant."""


class StaleToken(LockError):
    """A later holder of the lock has been at this resource: the caller has lost the lock, and must change nothing."""
