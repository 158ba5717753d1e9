"""What stands in the log: changes of one cache, in order, each with its own answer.

A change is a list: ["set" | "add", key, value, ttl], ["touch", key, ttl], ["delete", key], ["increment", key, delta] or
["clear"]. A value is an int of 64 bits, or bytes, which are stored as they came and never looked into. A ttl is in
microseconds from the entry's log time (None: for ever; 0 or less: it is gone at once).

Another kind of change is another version of the command: a node that does not know it must stand still before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlog import command
from raftlog.contrib.cache.rows import Rows

# Answers of "increment" that are no number. They stand in logs: never change one.
MISSING = "missing"
NO_INTEGER = "no integer"
OVERFLOW = "overflow"

LARGEST = 2**63 - 1


@command(name="raftlog_cache.write", is_numbered=False)
def write(ctx: Any, *, location: str, changes: list, max_entries: int, cull_frequency: int) -> list:
    """Apply `changes` in order; returns for each what it found.

    "set", "clear": True. "add", "touch", "delete": whether it did something. "increment": the new number, or why not.
    Where new keys would make more than `max_entries`, those that have expired go first, then the entries written
    longest ago: one in `cull_frequency` (0: all).
    """
    answers: list[Any] = []
    batch: list[list[Any]] = []
    for change in [*changes, ["clear"]]:
        if change[0] != "clear":
            batch.append(change)
            continue
        rows = Rows(location, ctx)
        if batch:
            rows.load({key for _, key, *_ in batch})
            if new := rows.missing({key for kind, key, *_ in batch if kind in ("set", "add")}):
                rows.make_room(new, max_entries, cull_frequency)
            answers += [_CHANGES[kind](rows, *rest) for kind, *rest in batch]
            rows.save()
            batch = []
        if len(answers) < len(changes):
            rows.clear()
            answers.append(True)
    return answers


def _set(rows: Rows, key: str, value: int | bytes, ttl: int | None) -> bool:
    rows.put(key, value, ttl)
    return True


def _add(rows: Rows, key: str, value: int | bytes, ttl: int | None) -> bool:
    if rows.is_live(key):
        return False
    rows.put(key, value, ttl)
    return True


def _touch(rows: Rows, key: str, ttl: int | None) -> bool:
    if not rows.is_live(key):
        return False
    rows.touch(key, ttl)
    return True


def _delete(rows: Rows, key: str) -> bool:
    was_live = rows.is_live(key)
    rows.remove(key)
    return was_live


def _increment(rows: Rows, key: str, delta: int) -> int | str:
    """What it is now; its time to live stays as it is."""
    if not rows.is_live(key):
        return MISSING
    number = rows.number(key)
    if number is None:
        return NO_INTEGER
    if abs(number + delta) > LARGEST:
        return OVERFLOW
    rows.renumber(key, number + delta)
    return number + delta


_CHANGES: dict[str, Callable[..., Any]] = {
    "set": _set,
    "add": _add,
    "touch": _touch,
    "delete": _delete,
    "increment": _increment,
}
