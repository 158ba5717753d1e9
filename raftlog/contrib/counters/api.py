"""Counting and reading: changes are gathered for a moment in each process, and proposed together."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from django.db import router, transaction

from raftlog import InsideTransaction, InvalidArguments, is_applying
from raftlog.contrib.counters.commands import LARGEST, add_in_command, refuse_without_table, remove
from raftlog.contrib.counters.gathering import gatherer, interval
from raftlog.contrib.counters.models import Counter

MAX_NAME: Final = 200  # characters


def add(name: str, n: int = 1, *, exact: bool = False) -> int | None:
    """Add `n`, which may be negative, to a counter; a name that is new begins at 0.

    Without `exact` it returns None at once: what this process adds is gathered for RAFTLOG_COUNTERS_INTERVAL seconds
    (0.5) and at its end, and goes into the log together. A process that is killed loses what it had gathered. In an
    open transaction it counts once that is committed, and not if it is rolled back. An interval of 0 gathers nothing:
    for tests, with the fixture raft_inline.

    With `exact` it waits for the log and returns the counter's value. Refused in an open transaction.

    Raises:
        InvalidArguments: a name or number that is none.
        InsideTransaction: inside a command (use add_in_command(ctx, …)); `exact` in an open transaction.
        NotProposed, OutcomeUnknown: with `exact`, as any command.

    Thread-safe.
    """
    _check(name)
    if isinstance(n, bool) or not isinstance(n, int) or not -LARGEST <= n <= LARGEST:
        raise InvalidArguments(f"counters.add({name!r}): n is {n!r}; it must be a whole number of at most 64 bits")
    if is_applying():
        raise InsideTransaction(
            f"counters.add({name!r}) inside a command would count on every node: "
            f"use counters.add_in_command(ctx, changes={{{name!r}: {n}}})"
        )
    if exact:
        _refuse_without_table()
        return int(add_in_command.propose(changes={name: n})[name])
    connection = transaction.get_connection(router.db_for_write(Counter))
    count = partial(gatherer.add if interval() else _add_now, name, n)
    # Without asking the connection for more, so that it may be called in async code. The transaction around a test
    # (Django's TestCase) never commits, and is not the caller's.
    if connection.in_atomic_block and not all(block._from_testcase for block in connection.atomic_blocks):
        connection.on_commit(count)
    else:
        count()
    return None


def _refuse_without_table() -> None:
    """In a transaction there is nothing to ask: the proposal is refused."""
    if not transaction.get_connection(router.db_for_write(Counter)).in_atomic_block:
        refuse_without_table()


def _add_now(name: str, n: int) -> None:
    add_in_command.propose(changes={name: n})


def value(name: str) -> int:
    """What this host's database has; 0 for a name that was never counted. A local read."""
    _check(name)
    found = Counter.objects.filter(pk=name).values_list("value", flat=True).first()
    return 0 if found is None else found


def values(*names: str) -> dict[str, int]:
    """As value(), of many in one query."""
    for name in names:
        _check(name)
    found = dict(Counter.objects.filter(pk__in=names).values_list("pk", "value"))
    return {name: found.get(name, 0) for name in names}


def top(n: int = 10, prefix: str = "") -> list[tuple[str, int]]:
    """The `n` largest whose name begins with `prefix`, as (name, value), the largest first. A local read."""
    rows = Counter.objects.order_by("-value", "name")
    if prefix:
        rows = rows.filter(pk__startswith=prefix)
    return list(rows.values_list("name", "value")[:n])


def reset(name: str) -> int:
    """Take a counter away, through the log, and return what it was. What others still gather counts from 0 again.

    Raises as add(exact=True).
    """
    _check(name)
    flush()
    _refuse_without_table()
    return int(remove.propose(name=name))


def flush(timeout: float | None = None) -> bool:
    """Wait until all that this process has gathered so far is in the log; False: not within `timeout` seconds.

    Tests use it, and whoever ends the process by os._exit() or exec.
    """
    return gatherer.flush(timeout)


def _check(name: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "\0" in name:
        raise InvalidArguments(f"the counter's name is {name!r}; it must be text of 1 to {MAX_NAME} characters")
