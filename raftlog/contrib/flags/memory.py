"""What the flags are, in this process's memory: a read is a look into a dict.

One daemon thread, started by the first read, looks at the flags' table every INTERVAL seconds; what changed is put
into the dict, and callbacks are called. A process's own changes are there when their commit returns. In tests
(Django's runner, pytest-django) there is no thread and no memory: each read asks the database, so that it sees its
test's transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from django.db import connections, router
from django.db.utils import Error as DatabaseError

from raftlog import InsideTransaction, is_applying
from raftlog.contrib.flags.declared import Definition, definition, definitions
from raftlog.contrib.flags.models import Flag
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.flags")

INTERVAL: Final = 0.1  # seconds between two looks
FIRST_LOAD: Final = 5.0  # seconds that the first read waits for the thread
BUCKETS: Final = 10_000

Callback = Callable[[Any, Any], Any]


class Setting(NamedTuple):
    """What stands in a flag's row."""

    value: Any
    percentage: float | None


# The dict that reads look into: name -> value, of every flag that is defined. Replaced keys only, never cleared while
# the thread runs. Empty until the first read, and in tests but for what is overridden.
_values: dict[str, Any] = {}
# Name -> share of units, of flags that are rolled out to some.
_percentages: dict[str, float] = {}


def get(name: str) -> Any:
    """A flag's value, or its default. From memory: well below a microsecond; at most 0.1 s behind this host's database.

    A flag that is rolled out to some users is False here: ask enabled(). Raises UnknownFlag; InsideTransaction inside a
    command, where nodes would differ: use read_in_command(). Do not change a list or dict that it returns.
    Thread-safe; may be called in async code (the first read of a process waits for the database).
    """
    if is_applying():
        raise _refused(name)
    try:
        return _values[name]
    except KeyError:
        return _first_read(name).value


def enabled(name: str, unit: Any = None) -> bool:
    """Whether a flag is on, for a user (or whatever else is told apart): `unit` is a key, str or int.

    Where the flag has a percentage, it is on for that share of units: always the same ones, more as it grows, and
    others for another flag. Without a unit it then is off. Raises as get().
    """
    if is_applying():
        raise _refused(name)
    if name in _values:
        value, percentage = _values[name], _percentages.get(name)
    else:
        value, percentage = _first_read(name)
    if percentage is None:
        return bool(value)
    return unit is not None and bucket(name, unit) < percentage * (BUCKETS / 100)


def bucket(name: str, unit: Any) -> int:
    """0 to 9,999, the same in every process and version."""
    digest = hashlib.blake2b(f"{name}:{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def read_in_command(ctx: Any, name: str) -> Any:
    """A flag's value at the place of a command in the log: the same on every node, whose code has the same default."""
    found = _resolve(definition(name), _read_rows().get(name))
    return found.value


# Changes


class _Watch:
    """What a process has one of. `guard` is held while rows are read and put into memory: the later read stands."""

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.thread: threading.Thread | None = None
        self.loaded = threading.Event()
        self.pause = threading.Event()  # never set: what the thread waits at
        self.callbacks: dict[str, list[Callback]] = {}
        self.overridden: dict[str, list[Any]] = {}
        self.known: dict[str, Setting] = {}
        self.problem = ""

    def forked(self) -> None:
        """In the child: the thread is the parent's. The values stand until the first look."""
        self.guard = threading.RLock()
        self.thread = None
        self.loaded = threading.Event()
        _values.clear()
        _percentages.clear()


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.forked)


def on_change(name: str) -> Callable[[Callback], Callback]:
    """Call the decorated function with (value, before) in each process that watches, once for each change it sees.

    It runs in the thread that watches, or that made the change: hand long work to another. What it raises is logged.
    Changes that follow each other within 0.1 s may be seen as one. A process watches from its first read on, or from
    watch().
    """

    def register(callback: Callback) -> Callback:
        with _watch.guard:
            _watch.callbacks.setdefault(name, []).append(callback)
        return callback

    return register


def watch() -> None:
    """Begin to watch now, in a process that has callbacks and may never read a flag."""
    if not _is_testing():
        _start()


@contextmanager
def override(name: str, value: Any) -> Iterator[None]:
    """For tests: inside, the flag has this value in this process, whatever the database says. Also a decorator."""
    checked = definition(name).check(value)
    with _watch.guard:
        _watch.overridden.setdefault(name, []).append(checked)
        _put(name)
    try:
        yield
    finally:
        with _watch.guard:
            _watch.overridden[name].pop()
            _put(name)


def _first_read(name: str) -> Setting:
    found = definition(name)
    if _is_testing():
        return _resolve(found, None if _in_event_loop() else _read_rows().get(name))
    _start()
    _watch.loaded.wait(FIRST_LOAD)
    with _watch.guard:
        setting = _resolve(found, _watch.known.get(name))
        if _watch.loaded.is_set():
            _put(name)
    return setting


def _start() -> None:
    with _watch.guard:
        if _watch.thread is None:
            thread = threading.Thread(target=_look_again_and_again, name="raftlog-flags", daemon=True)
            thread.start()  # it raises RuntimeError where there can be no more; then the next read tries again
            _watch.thread = thread


def _look_again_and_again() -> None:
    watch = _watch
    while watch is _watch:  # another one begins in tests only
        try:
            look()
        except Exception:  # the thread goes on: without it, flags would never change again
            if not watch.problem:
                logger.exception(
                    "flags cannot be read; what was known stands, at first the defaults",
                    extra=log_fields("database_unusable"),
                )
            watch.problem = "see the log"
        watch.loaded.set()
        watch.pause.wait(INTERVAL)
    connections.close_all()


def look() -> None:
    """reload(), or a line in the log where that is not possible now."""
    try:
        reload()
        _watch.problem = ""
    except DatabaseError as error:
        if not _watch.problem:
            logger.warning(
                "flags cannot be read; what was known stands, at first the defaults: %s",
                error,
                extra=log_fields("database_unusable", reason=str(error)),
            )
        _watch.problem = str(error)
        connections[router.db_for_write(Flag)].close()


def reload() -> None:
    """Read the table, put what changed into memory, call back. Raises DatabaseError."""
    with _watch.guard:
        rows = _read_rows()
        before, _watch.known = _watch.known, rows
        is_first = not _watch.loaded.is_set()
        changed = []
        for found in definitions():
            old, new = _resolve(found, before.get(found.name)), _resolve(found, rows.get(found.name))
            _put(found.name)
            if old != new and not is_first:
                changed.append((found.name, new.value, old.value))
        callbacks = [(each, new, old) for name, new, old in changed for each in _watch.callbacks.get(name, ())]
    for callback, new, old in callbacks:
        try:
            callback(new, old)
        except Exception:  # the project's code; the flag is what it is
            logger.exception(
                "a callback of flags failed: %r", callback, extra=log_fields("receiver_failed", about=repr(callback))
            )


def committed() -> None:
    """This process changed a flag: its own reads see it from now on."""
    if _watch.thread is not None:
        look()


def _put(name: str) -> None:
    """Guard held. One flag as it is, or as it is overridden."""
    if overridden := _watch.overridden.get(name):
        _values[name] = overridden[-1]
        _percentages.pop(name, None)
    elif _watch.thread is None:
        _values.pop(name, None)
    else:
        setting = _resolve(definition(name), _watch.known.get(name))
        _values[name] = setting.value
        if setting.percentage is None:
            _percentages.pop(name, None)
        else:
            _percentages[name] = setting.percentage


def _resolve(found: Definition, setting: Setting | None) -> Setting:
    """A row that does not fit the definition (the code's type has changed) counts as none."""
    if setting is None:
        return Setting(found.default, None)
    if setting.percentage is not None:
        return Setting(False, setting.percentage)
    try:
        return Setting(found.check(setting.value), None)
    except (TypeError, ValueError):
        return Setting(found.default, None)


def _read_rows() -> dict[str, Setting]:
    rows = Flag.objects.using(router.db_for_write(Flag)).values_list("name", "value", "percentage")
    return {name: Setting(value, percentage) for name, value, percentage in rows}


def _is_testing() -> bool:
    """Whether Django's test environment is set up, by its runner or by pytest-django."""
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


def _in_event_loop() -> bool:
    """Whether this thread runs one: then the test's transaction, which is another thread's, cannot be asked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refused(name: str) -> InsideTransaction:
    return InsideTransaction(
        f"flag {name!r} read inside a command, where another node may have another value in memory: use "
        f"flags.read_in_command(ctx, {name!r}), or pass its value as an argument"
    )
