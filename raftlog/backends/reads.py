"""Reading with a guarantee: linearizable(), max_staleness() and catch_up(), each with its form for async code.

All are about one moment, that of entry. What is read afterwards, through this thread's connection to the replicated
alias, is what this host's database holds then or later; nothing holds it still.

Where entries are applied inline (test databases), there is nobody to ask and nothing to wait for.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import connections
from django.db.utils import DatabaseError

from raftlog.backends.log import log_for
from raftlog.exceptions import InsideTransaction, NodeUnavailable, ReadNotConfirmed, TooStale
from raftlog.replication import propose
from raftlog.replication.context import is_applying
from raftlog.replication.open_transaction import is_inside_transaction
from raftlog.replication.read_rounds import Confirmed, ReadRounds, current_rounds, not_confirmed
from raftlog.runtime import clock

FIRST_LOOK: Final = 0.001  # seconds between two looks at the applied index; doubled up to
LAST_LOOK: Final = 0.02
STALENESS_TIMEOUT: Final = 1.0  # seconds that max_staleness() waits for a newer answer
CATCH_UP_TIMEOUT: Final = 2.0

Function = TypeVar("Function", bound=Callable[..., Any])


# What a thread's own connection sees


def refuse_inside_transaction(alias: str, what: str) -> None:
    """Raises InsideTransaction: a snapshot that is open goes on showing what it showed (rule 19)."""
    if is_applying():
        raise InsideTransaction(
            f"{what}: a command or hook that is being applied reads the state at its own place in the log, and cannot "
            "wait for what is applied after it; read without it"
        )
    connection = connections[alias]
    inside = is_inside_transaction(connection) if applies_inline(alias) else connection.in_atomic_block
    begins_by_itself = connection.connection is not None and not (connection.in_atomic_block or connection.autocommit)
    if inside or begins_by_itself:
        raise InsideTransaction(
            f"{what}: this thread has an open transaction on DATABASES[{alias!r}], which goes on reading the snapshot "
            "with which it began; enter it before the atomic block (the block inside is fine), and mark a view under "
            "ATOMIC_REQUESTS with @transaction.non_atomic_requests"
        )


def applies_inline(alias: str) -> bool:
    return log_for(alias).holds_turn


def applied_here(alias: str) -> int:
    """The applied index that this thread's next query sees, 0 where there is no database yet."""
    connection = connections[alias]
    if fetch_open_results := getattr(connection, "fetch_open_results", None):
        fetch_open_results()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT applied_index FROM raftlog_appliedindex WHERE id = 1")
            row = cursor.fetchone()
    except DatabaseError:
        return 0
    return int(row[0]) if row else 0


def cluster_here() -> str:
    """Id of the cluster whose log this host's database holds, "" where that is not known, or entries are inline."""
    alias = propose.limits().alias
    if applies_inline(alias):
        return ""
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT cluster_id FROM raftlog_appliedindex WHERE id = 1")
            row = cursor.fetchone()
    except DatabaseError:
        return ""
    return str(row[0]) if row else ""


def see(alias: str, index: int, deadline: float, what: str) -> None:
    """Wait until this thread's connection sees what was applied up to `index`. Raises ReadNotConfirmed."""
    refuse_inside_transaction(alias, what)
    pause = FIRST_LOOK
    while (applied := applied_here(alias)) < index:
        if clock.monotonic() >= deadline:
            raise not_confirmed(
                f"{what}: through this thread's connection DATABASES[{alias!r}] is at entry {applied}, before {index}: "
                "this host's node is behind or does not run, the connection has an unfinished query (.iterator()), or "
                "it leads to another database than the node's"
            )
        clock.sleep(min(pause, max(deadline - clock.monotonic(), 0)))
        pause = min(2 * pause, LAST_LOOK)


_see_async = sync_to_async(see, thread_sensitive=True)
_refuse_async = sync_to_async(refuse_inside_transaction, thread_sensitive=True)


class _Barrier:
    """What is passed before reading, by `with`, `async with` or `await`, or at each call of a decorated function."""

    name = ""

    def __init__(self, timeout: float) -> None:
        if not 0 < timeout <= propose.MAX_TIMEOUT:
            raise ValueError(f"timeout is {timeout!r}; it must be above 0 and at most {propose.MAX_TIMEOUT} seconds")
        self._timeout = timeout

    def _pass(self) -> int:
        """The index that is visible now."""
        alias = propose.limits().alias
        refuse_inside_transaction(alias, self.name)
        if applies_inline(alias):
            return 0
        deadline = clock.monotonic() + self._timeout
        return self._after(current_rounds(), alias, deadline)

    async def _pass_async(self) -> int:
        alias = propose.limits().alias
        if applies_inline(alias):
            await _refuse_async(alias, self.name)
            return 0
        deadline = clock.monotonic() + self._timeout
        rounds = await asyncio.to_thread(current_rounds)
        return await self._after_async(rounds, alias, deadline)

    def _after(self, rounds: ReadRounds, alias: str, deadline: float) -> int:
        raise NotImplementedError

    async def _after_async(self, rounds: ReadRounds, alias: str, deadline: float) -> int:
        raise NotImplementedError

    def __enter__(self) -> int:
        return self._pass()

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    async def __aenter__(self) -> int:
        return await self._pass_async()

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    def __await__(self) -> Generator[Any, None, int]:
        return self._pass_async().__await__()

    def __call__(self, function: Function) -> Function:
        """Decorate a function, or a coroutine function: the barrier is passed at each call."""
        if iscoroutinefunction(function):  # asgiref's knows asynchronous class-based views too

            @functools.wraps(function)
            async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
                await self._pass_async()
                return await function(*args, **kwargs)

            return async_wrapper  # type: ignore[return-value]

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]


# Linearizable


class _Linearizable(_Barrier):
    name = "linearizable()"

    def __init__(self, timeout: float | None) -> None:
        super().__init__(propose.limits().timeout if timeout is None else timeout)

    def _after(self, rounds: ReadRounds, alias: str, deadline: float) -> int:
        confirmed = rounds.wait(self._timeout)
        see(alias, confirmed.up_to, deadline, self.name)
        return confirmed.up_to

    async def _after_async(self, rounds: ReadRounds, alias: str, deadline: float) -> int:
        confirmed = await rounds.wait_async(self._timeout)
        await _see_async(alias, confirmed.up_to, deadline, self.name)
        return confirmed.up_to


def linearizable(function: Callable[..., Any] | None = None, *, timeout: float | None = None) -> Any:
    """Reads after this see all that any host had committed before it, on whichever host they run.

        with raftlog.linearizable():
            stock = Stock.objects.get(pk=3)

        @raftlog.linearizable            # or @raftlog.linearizable(timeout=2); coroutine functions too
        def report(): ...

    A leader confirms it through this host's node, and this host's database applies up to there; threads of a process
    that ask at once share the question. Thread-safe. The index reached is what `as` gives.

    Args:
        timeout: seconds, RAFTLOG["PROPOSAL_TIMEOUT"] by default.

    Raises:
        ReadNotConfirmed: no leader confirmed it in time, or this host's node serves no such reads (it has diverged).
        NodeUnavailable: no node runs on this host.
        InsideTransaction: a transaction of the alias is open in this thread, or an entry is being applied.
    """
    barrier = _Linearizable(timeout)
    return barrier if function is None else barrier(function)


def alinearizable(function: Callable[..., Any] | None = None, *, timeout: float | None = None) -> Any:
    """As linearizable(), for async code: `async with raftlog.alinearizable():`, `await raftlog.alinearizable()`."""
    return linearizable(function, timeout=timeout)


# Bounded staleness


class _MaxStaleness(_Barrier):
    name = "max_staleness()"

    def __init__(self, seconds: float, timeout: float) -> None:
        if not 0 < seconds <= propose.MAX_TIMEOUT:
            raise ValueError(f"seconds is {seconds!r}; it must be above 0 and at most {propose.MAX_TIMEOUT}")
        super().__init__(timeout)
        self._seconds = seconds

    def _age(self, confirmed: Confirmed | None) -> float:
        return math.inf if confirmed is None else clock.monotonic() - confirmed.as_of

    def _recent(self, rounds: ReadRounds) -> Confirmed | None:
        """An answer that is young enough still; one that is half as old as it may be is renewed meanwhile."""
        confirmed = rounds.newest
        age = self._age(confirmed)
        if age > self._seconds:
            return None
        if age > self._seconds / 2:
            rounds.refresh(self._timeout)
        return confirmed

    def _after(self, rounds: ReadRounds, alias: str, deadline: float) -> int:
        confirmed = self._recent(rounds)
        try:
            if confirmed is None:
                confirmed = rounds.wait(self._timeout)
            see(alias, confirmed.up_to, deadline, self.name)
        except (ReadNotConfirmed, NodeUnavailable) as error:
            raise self._too_stale(rounds, error) from error
        return self._checked(rounds, confirmed)

    async def _after_async(self, rounds: ReadRounds, alias: str, deadline: float) -> int:
        confirmed = self._recent(rounds)
        try:
            if confirmed is None:
                confirmed = await rounds.wait_async(self._timeout)
            await _see_async(alias, confirmed.up_to, deadline, self.name)
        except (ReadNotConfirmed, NodeUnavailable) as error:
            raise self._too_stale(rounds, error) from error
        return self._checked(rounds, confirmed)

    def _checked(self, rounds: ReadRounds, confirmed: Confirmed) -> int:
        if self._age(confirmed) > self._seconds:
            raise self._too_stale(rounds, "it took that long to hear from the leader, and to see what it said applied")
        return confirmed.up_to

    def _too_stale(self, rounds: ReadRounds, why: object) -> TooStale:
        behind = self._age(rounds.newest)
        since = "never to this process" if rounds.newest is None else f"{behind:.3g} s ago"
        return TooStale(
            f"this host's database may be more than {self._seconds:g} s behind: a leader last confirmed it {since} "
            f"({why})",
            behind,
        )


def max_staleness(seconds: float, *, timeout: float = STALENESS_TIMEOUT) -> _MaxStaleness:
    """Reads after this see all that any host had committed up to `seconds` before it; else TooStale is raised.

        with raftlog.max_staleness(5):
            offers = list(Offer.objects.all())

    A context manager and a decorator, as linearizable(). The age is counted from when this host *asked* the leader that
    answered, by this host's own clock (one that does not stand still while the machine sleeps): no clocks of two hosts
    are compared. One answer serves all threads of a process until it is older than the bound, and is renewed in the
    background from half of it on, so a read costs one small query of this host's database.

    Args:
        seconds: how old the state may be at most.
        timeout: seconds to wait for an answer where none is young enough.

    Raises:
        TooStale: no leader was heard from within the bound; `behind` says how long ago one was.
        InsideTransaction: as linearizable().
    """
    return _MaxStaleness(seconds, timeout)


def amax_staleness(seconds: float, *, timeout: float = STALENESS_TIMEOUT) -> _MaxStaleness:
    """As max_staleness(), for async code."""
    return max_staleness(seconds, timeout=timeout)


# What is known by its index


def catch_up(index: int, timeout: float = CATCH_UP_TIMEOUT) -> None:
    """Wait until this host's database has applied the entry at `index` (raftlog.last_index(), of any process or host).

    Asks nobody: it looks at this host's database.

    Raises:
        ReadNotConfirmed: it has not within `timeout` seconds (0: look once).
        InsideTransaction: as linearizable().
    """
    alias = propose.limits().alias
    deadline = clock.monotonic() + timeout
    if applies_inline(alias):
        refuse_inside_transaction(alias, "catch_up()")
    else:
        see(alias, index, deadline, "catch_up()")


async def acatch_up(index: int, timeout: float = CATCH_UP_TIMEOUT) -> None:
    """As catch_up(), for async code."""
    alias = propose.limits().alias
    deadline = clock.monotonic() + timeout
    if applies_inline(alias):
        await _refuse_async(alias, "acatch_up()")
        return
    while clock.monotonic() + LAST_LOOK < deadline:
        try:
            # Not for longer than that in the thread that all async code shares.
            await _see_async(alias, index, clock.monotonic() + FIRST_LOOK, "acatch_up()")
            return
        except ReadNotConfirmed:
            await asyncio.sleep(LAST_LOOK)
    await _see_async(alias, index, deadline, "acatch_up()")
