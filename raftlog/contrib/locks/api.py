"""`raftlog.lock()` and its kin: blocking and asynchronous, lock and semaphore, over one Attempt."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async

from raftlog import clock
from raftlog.contrib.locks import tables
from raftlog.contrib.locks.exceptions import AlreadyHeld
from raftlog.contrib.locks.fence import Fence
from raftlog.contrib.locks.keeper import keeper
from raftlog.exceptions import RaftlogError

if TYPE_CHECKING:
    from raftlog.contrib.locks.attempt import Wanted

OnLost = Callable[[Fence], Any]

RELEASE_TIMEOUT: Final = 2.0  # seconds; after that the keeper goes on trying

# (thread, task, name) of what is held: who asks for it again would wait for itself.
_held: set[tuple[int, int, str]] = set()
os.register_at_fork(after_in_child=_held.clear)


@contextmanager
def lock(
    name: str, ttl: float = 30.0, wait: float | None = None, *, on_lost: OnLost | None = None, label: str = ""
) -> Iterator[Fence]:
    """Hold the lock `name` of the whole cluster: `with raftlog.lock("report", ttl=30, wait=10) as fence:`

    Args:
        name: 1 to 200 characters.
        ttl: seconds after which it is free again if its holder dies. It is renewed every third of that.
        wait: seconds to wait for it, in the order of those who ask; None: for ever; 0: not at all.
        on_lost: called with the fence, in the thread that renews, if it is lost inside the block.
        label: who holds it, for `manage.py raft locks`. Default: host, program and pid.

    Raises:
        LockNotAcquired: it was not free in time. AlreadyHeld: by this thread or task.
        LockLost: at the end of the block, if it was not held to the end and nothing else was raised.
        NotProposed, OutcomeUnknown: with wait=0; else they are tried again until `wait` is over.
        InsideTransaction: called in an open transaction of the replicated database.
    """
    wanted = _wanted(name, ttl, wait, 1, on_lost, label)
    with _holding(wanted) as fence:
        yield fence


@contextmanager
def semaphore(
    name: str,
    limit: int,
    ttl: float = 30.0,
    wait: float | None = None,
    *,
    on_lost: OnLost | None = None,
    label: str = "",
) -> Iterator[Fence]:
    """As lock(), for up to `limit` holders at once. All who use it must say the same limit."""
    wanted = _wanted(name, ttl, wait, limit, on_lost, label)
    with _holding(wanted) as fence:
        yield fence


@asynccontextmanager
async def alock(
    name: str, ttl: float = 30.0, wait: float | None = None, *, on_lost: OnLost | None = None, label: str = ""
) -> AsyncIterator[Fence]:
    """As lock(), for `async with`. Cancelling it while it waits leaves the queue."""
    wanted = _wanted(name, ttl, wait, 1, on_lost, label)
    async with _aholding(wanted) as fence:
        yield fence


@asynccontextmanager
async def asemaphore(
    name: str,
    limit: int,
    ttl: float = 30.0,
    wait: float | None = None,
    *,
    on_lost: OnLost | None = None,
    label: str = "",
) -> AsyncIterator[Fence]:
    """As semaphore(), for `async with`."""
    wanted = _wanted(name, ttl, wait, limit, on_lost, label)
    async with _aholding(wanted) as fence:
        yield fence


# Without `with`: for raftlog.contrib.leader and the verbs


def take(wanted: Wanted, owner: str = "") -> Fence:
    """Acquire, and keep it renewed. Raises as lock(). `owner`: of earlier takes that this one goes on with."""
    from raftlog.contrib.locks import commands
    from raftlog.contrib.locks.attempt import RETRYABLE, Attempt

    tables.require_tables()
    attempt = Attempt(wanted, owner)
    try:
        attempt.look(*tables.read(wanted.name))
        while True:
            sent_at = clock.monotonic()
            command = commands.acquire.with_options(timeout=attempt.timeout())
            try:
                fence = attempt.answered(command.propose(**attempt.arguments()), sent_at)
            except RETRYABLE as error:
                fence = None
                attempt.failed(error)
            if fence is not None:
                keeper.keep(fence)
                return fence
            attempt.look(*tables.read(wanted.name))
            while (fence := attempt.handed_over()) is None and not attempt.should_ask():
                clock.sleep(attempt.pause())
                attempt.look(*tables.read(wanted.name))
            if fence is not None:
                keeper.keep(fence)
                return fence
    except BaseException:
        keeper.release_later(attempt.owner, wanted.ttl)
        raise


async def atake(wanted: Wanted) -> Fence:
    """As take(), without blocking the event loop."""
    from raftlog.contrib.locks import commands
    from raftlog.contrib.locks.attempt import RETRYABLE, Attempt

    await sync_to_async(tables.require_tables)()
    attempt = Attempt(wanted)
    try:
        attempt.look(*await sync_to_async(tables.read)(wanted.name))
        while True:
            sent_at = clock.monotonic()
            command = commands.acquire.with_options(timeout=attempt.timeout())
            try:
                fence = attempt.answered(await command.apropose(**attempt.arguments()), sent_at)
            except RETRYABLE as error:
                fence = None
                attempt.failed(error)
            if fence is not None:
                keeper.keep(fence)
                return fence
            attempt.look(*await sync_to_async(tables.read)(wanted.name))
            while (fence := attempt.handed_over()) is None and not attempt.should_ask():
                await asyncio.sleep(attempt.pause())
                attempt.look(*await sync_to_async(tables.read)(wanted.name))
            if fence is not None:
                keeper.keep(fence)
                return fence
    except BaseException:
        keeper.release_later(attempt.owner, wanted.ttl)
        raise


def give_back(fence: Fence) -> None:
    """Release it. Where that cannot be told now, it goes on in the background, and at last the ttl ends it."""
    from raftlog.contrib.locks import commands

    keeper.forget(fence)
    try:
        commands.release.with_options(timeout=RELEASE_TIMEOUT).propose(owners=[fence.owner])
    except RaftlogError:
        keeper.release_later(fence.owner, fence.ttl)


def complete(fence: Fence, key: str) -> None:
    """Note that the step `key` is done, so that no later holder does it again.

    Raises LockLost, ProposalError, ValueError.
    """
    from raftlog.contrib.locks import commands

    check_key(key)
    commands.complete.propose(name=fence.name, owner=fence.owner, key=key)


def check_key(key: str) -> None:
    """Raises ValueError."""
    from raftlog.contrib.locks.models import NAME_LENGTH

    if not 0 < len(key) <= NAME_LENGTH or "\0" in key:
        raise ValueError(f"the key of a step has {len(key)} characters; give it 1 to {NAME_LENGTH}, no NUL")


async def agive_back(fence: Fence) -> None:
    """As give_back()."""
    from raftlog.contrib.locks import commands

    keeper.forget(fence)
    try:
        await commands.release.with_options(timeout=RELEASE_TIMEOUT).apropose(owners=[fence.owner])
    except RaftlogError:
        keeper.release_later(fence.owner, fence.ttl)
    except asyncio.CancelledError:
        keeper.release_later(fence.owner, fence.ttl)
        raise


def _wanted(name: str, ttl: float, wait: float | None, limit: int, on_lost: OnLost | None, label: str) -> Wanted:
    tables.require_app()
    from raftlog.contrib.locks.attempt import Wanted

    return Wanted(name, ttl, wait, limit, on_lost, label)


@contextmanager
def _holding(wanted: Wanted) -> Iterator[Fence]:
    with _not_twice(wanted.name):
        fence = take(wanted)
        try:
            yield fence
            fence.check()
        finally:
            if fence.is_mine:  # else this is a fork, and the lock is the parent's
                give_back(fence)


@asynccontextmanager
async def _aholding(wanted: Wanted) -> AsyncIterator[Fence]:
    with _not_twice(wanted.name):
        fence = await atake(wanted)
        try:
            yield fence
            fence.check()
        finally:
            if fence.is_mine:
                await agive_back(fence)


@contextmanager
def _not_twice(name: str) -> Iterator[None]:
    """Raises AlreadyHeld."""
    try:
        task = id(asyncio.current_task() or 0)
    except RuntimeError:  # no event loop runs in this thread
        task = 0
    key = (threading.get_ident(), task, name)
    if key in _held:
        raise AlreadyHeld(f"this thread holds {name!r} already, or waits for it: it would wait for itself")
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
