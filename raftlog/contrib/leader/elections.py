"""Elections by name: whoever takes the lock leads, and keeps it for as long as it lives."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final, overload

from asgiref.sync import iscoroutinefunction

from raftlog.contrib.locks import api
from raftlog.contrib.locks.exceptions import LockLost, LockNotAcquired
from raftlog.contrib.locks.fence import Fence
from raftlog.exceptions import NotProposed, OutcomeUnknown
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.leader")

DEFAULT_NAME: Final = "leader"
DEFAULT_TTL: Final = 15.0  # seconds after which another may lead when this process dies

Function = Callable[..., Any]


def lock_name(name: str) -> str:
    """The lock behind an election."""
    return f"leader:{name}"


class Election:
    """One election, as this process takes part in it. Thread-safe; election() gives the one of a name."""

    def __init__(self, name: str, ttl: float) -> None:
        self.name = name
        self.ttl = ttl
        self._guard = threading.Lock()
        self._fence: Fence | None = None

    def __repr__(self) -> str:
        return f"<Election {self.name!r}, {'won' if self.is_won else 'not won'}>"

    @property
    def is_won(self) -> bool:
        """Whether this process surely leads now. Asks nobody."""
        fence = self._fence
        return fence is not None and fence.is_valid

    def stand(self) -> Fence | None:
        """The fence, where this process leads; else it asks for the lead, without waiting. None: another leads.

        Where the cluster has no majority nobody can win: None. Raises InsideTransaction, LockError.
        """
        from raftlog.contrib.locks.attempt import Wanted

        with self._guard:
            if self.is_won:
                return self._fence
            self._resign()
            try:
                self._fence = api.take(Wanted(lock_name(self.name), self.ttl, wait=0))
            except LockNotAcquired:
                return None
            except (NotProposed, OutcomeUnknown) as error:
                logger.info("the election %r could not be held: %s", self.name, error)
                return None
            logger.info(
                "this process leads %r (token %d)",
                *(self.name, self._fence.token),
                extra=log_fields("leadership_won", about=self.name),
            )
            return self._fence

    def resign(self) -> None:
        """Let another one lead."""
        with self._guard:
            self._resign()

    def _resign(self) -> None:
        """_guard: held."""
        fence, self._fence = self._fence, None
        if fence is not None and fence.is_mine:
            api.give_back(fence)


class _Elections:
    """Those of this process, by name."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Also in a forked child: what the parent has won is not ours."""
        self._guard = threading.Lock()
        self._by_name: dict[str, Election] = {}

    def get(self, name: str, ttl: float) -> Election:
        with self._guard:
            return self._by_name.setdefault(name, Election(name, ttl))

    def resign_all(self) -> None:
        for election in list(self._by_name.values()):
            election.resign()


_elections = _Elections()
os.register_at_fork(after_in_child=_elections.start_over)
atexit.register(_elections.resign_all)


def election(name: str = DEFAULT_NAME, ttl: float = DEFAULT_TTL) -> Election:
    """This process's part in the election `name`; the `ttl` of the first call counts."""
    return _elections.get(name, ttl)


@overload
def only_on_leader(function: Function, /) -> Function: ...


@overload
def only_on_leader(*, name: str = ..., ttl: float = ...) -> Callable[[Function], Function]: ...


def only_on_leader(
    function: Function | None = None, /, *, name: str = DEFAULT_NAME, ttl: float = DEFAULT_TTL
) -> Function | Callable[[Function], Function]:
    """For functions that every process calls at intervals: only in the process that leads are they run.

    The first that calls one leads, and goes on leading for as long as it lives: its lock is renewed in between. In
    all other processes a call returns None at once. All functions with the same `name` have the same leader.

    A call is not ended when the lead is lost while it runs. What must not be done twice checks `election(name).is_won`
    or its fence in between; see docs/howto/leader.md. Raises TypeError for a coroutine function.
    """

    def decorate(function: Function) -> Function:
        if iscoroutinefunction(function):
            raise TypeError(
                f"{getattr(function, '__qualname__', function)} is a coroutine function:"
                " decorate what sync_to_async() calls, or hold "
                "`async with raftlog.alock(…)`"
            )

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if election(name, ttl).stand() is None:
                return None
            return function(*args, **kwargs)

        return wrapper

    return decorate if function is None else decorate(function)


def run(main: Callable[[Fence], Any], *, name: str = DEFAULT_NAME, ttl: float = DEFAULT_TTL) -> Any:
    """Wait until this process leads, and call `main(fence)`; returns what it returns.

    `main` calls `fence.check()` often, before each piece of work. Once the lead is lost that raises LockLost,
    upon which this waits to lead again, and calls `main` anew. Any other exception ends it, and the lead.
    """
    while True:
        has_ended, result = False, None
        try:
            with api.lock(lock_name(name), ttl=ttl) as fence:
                logger.info(
                    "this process leads %r (token %d)",
                    *(name, fence.token),
                    extra=log_fields("leadership_won", about=name),
                )
                result = main(fence)
                has_ended = True
        except LockLost as error:
            logger.warning(
                "this process does not lead %r any more: %s",
                *(name, error),
                extra=log_fields("leadership_lost", about=name, reason=str(error)),
            )
        if has_ended:
            return result
