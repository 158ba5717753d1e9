"""Running work again after a conflict (rule 3): a decorator for functions; raftlog.middleware does it for requests."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import iscoroutinefunction
from django.db import connections
from django.db.transaction import TransactionManagementError

from raftlog.backends import heat
from raftlog.backends.exceptions import TransactionConflict
from raftlog.replication.effects import Effects
from raftlog.replication.open_transaction import is_inside_transaction
from raftlog.runtime import clock

ATTEMPTS: Final = 10
FIRST_PAUSE: Final = 0.002  # seconds; doubled with each attempt, times a random factor below one
LAST_PAUSE: Final = 0.25

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def retry_on_conflict(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run `function` again while it ends in a TransactionConflict and has done nothing final.

    It must not be called inside an open atomic(): what came before in that transaction could not be run again.
    In async code decorate the synchronous function that sync_to_async() calls. Raises TypeError.
    """
    if iscoroutinefunction(function):
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} is a coroutine function,"
            " which retry_on_conflict cannot run again: put what it "
            "writes into a synchronous function, decorate that, and await sync_to_async(it)(…)"
        )

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        refuse_inside_atomic(function.__qualname__)
        is_hot = heat.is_hot(function)
        for attempt in range(1, ATTEMPTS + 1):
            with Effects(attempt + is_hot) as effects, other_databases_watched(effects):
                try:
                    return function(*args, **kwargs)
                except TransactionConflict:
                    heat.conflicted(function)
                    if effects.count or attempt == ATTEMPTS:
                        raise
            pause(attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    return wrapper


def refuse_inside_atomic(name: str) -> None:
    """Raises TransactionManagementError where a replicated alias has an open transaction."""
    for connection in connections.all(initialized_only=True):
        if hasattr(connection, "apply_port") and is_inside_transaction(connection):
            raise TransactionManagementError(
                f"{name} retries on conflict, and was called inside atomic() on {connection.alias!r}: call it outside, "
                "or let what surrounds it retry"
            )


def pause(attempt: int) -> None:
    # Two that conflict should not meet again at once.
    longest = min(FIRST_PAUSE * 2**attempt, LAST_PAUSE)
    clock.sleep(longest * random.SystemRandom().random())


@contextmanager
def other_databases_watched(effects: Effects) -> Iterator[None]:
    """A statement that writes to an alias of another backend counts as final: nobody rolls it back here."""

    def watch(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
        if not sql.lstrip().upper().startswith(("SELECT", "SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT")):
            effects.happened()
        return execute(sql, params, many, context)

    with ExitStack() as stack:
        for connection in connections.all():
            if not hasattr(connection, "apply_port"):
                stack.enter_context(connection.execute_wrapper(watch))
        yield
