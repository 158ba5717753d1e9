"""Between a command and what differs from node to node: clock, chance, host. In a worker process only.

While a `Run` is active, the functions replaced here answer from fixed values, or from others where a condition says so,
and note the line of the project that asked. Else, and in other threads, they are what they were. Imports no Django, and
is installed before anything that would keep the real functions under names of its own.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import gc
import os
import platform
import random
import socket
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

MOMENT: Final = 1_735_689_600.123456  # seconds since the epoch, at the first call of a run
TICK: Final = 0.000001  # by which each call finds the clock further on
SHIFT: Final = 400 * 86_400 + 12_317.123457  # no part of the date or time is the same

_STDLIB: Final = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_RAFTLOG: Final = str(Path(__file__).resolve().parents[2]) + os.sep
_CONTRIB: Final = os.path.join(_RAFTLOG, "contrib") + os.sep
_local = threading.local()


@functools.cache
def is_project(filename: str) -> bool:
    """Whether a line of this file is the project's own (or a battery's), and not Python's, Django's or raftlog's."""
    path = os.path.realpath(filename)
    if path.startswith(_RAFTLOG):
        return path.startswith(_CONTRIB)
    is_library = path.startswith(_STDLIB) or f"{os.sep}site-packages{os.sep}" in path
    return not is_library and os.path.exists(path)


def sites_here() -> Iterator[str]:
    """file:line of each frame that is the project's, from the innermost out."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_project(frame.f_code.co_filename):
            yield f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back


def site_here() -> str:
    """The innermost one; "" where there is none."""
    return next(sites_here(), "")


class Run:
    """Entered around a command, in its thread.

    `conditions` are names of conditions.py; with `site` they hold for what that line asks only.
    """

    def __init__(self, conditions: list[str], site: str) -> None:
        self.conditions = frozenset(conditions)
        self.site = site
        # condition -> lines that have asked.
        self.sites: dict[str, set[str]] = {}
        self._calls = 0
        self._generators = {kind: (random.Random(1), random.Random(2)) for kind in ("random", "urandom")}

    def __enter__(self) -> Run:
        _local.run = self
        return self

    def __exit__(self, *_: object) -> None:
        _local.run = None

    def holds(self, condition: str) -> bool:
        """Whether `condition` holds for the line that asks now, which is noted."""
        site = site_here()
        self.sites.setdefault(condition, set()).add(site)
        return condition in self.conditions and self.site in ("", site)

    def holds_everywhere(self, condition: str) -> bool:
        """As holds(), for what makes no sense for one line alone: of two readings of a stopwatch, say."""
        return condition in self.conditions and not self.site

    def stopwatch(self) -> float:
        self._calls += 1
        return MOMENT / 1_000 + self._calls * TICK + (SHIFT if self.holds_everywhere("clock") else 0.0)

    def time(self) -> float:
        shift = SHIFT if self.holds("clock") else 0.0
        self._calls += 1
        return MOMENT + self._calls * TICK + shift

    def generator(self, kind: str) -> random.Random:
        return self._generators[kind][self.holds("random")]

    def seed(self, *arguments: Any, **keywords: Any) -> None:
        """The command seeds the module's generator itself."""
        for generator in self._generators["random"]:
            _real_seed(generator, *arguments, **keywords)


def current() -> Run | None:
    return getattr(_local, "run", None)


# Installing

_real_seed = random.Random.seed


def replace(module: Any, name: str, instead: Callable[[Run, Any], Any]) -> None:
    """`instead(run, real)` gives what is called while a run is active."""
    real = getattr(module, name)

    @functools.wraps(real)
    def either(*arguments: Any, **keywords: Any) -> Any:
        run = current()
        return (real if run is None else instead(run, real))(*arguments, **keywords)

    setattr(module, name, either)


def replace_classmethod(kind: type, name: str, instead: Callable[..., Any]) -> None:
    """The same for a class written in C, whose attributes Python refuses to set. `instead(run, cls, …)`."""
    real = kind.__dict__[name]

    def either(cls: type, *arguments: Any, **keywords: Any) -> Any:
        run = current()
        if run is None:
            return real.__get__(None, cls)(*arguments, **keywords)
        return instead(run, cls, *arguments, **keywords)

    namespace = gc.get_referents(kind.__dict__)[0]
    namespace[name] = classmethod(either)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def install() -> None:
    """Once, at the start of a worker process."""
    _install_clock()
    _install_chance()
    for module, name, values in (
        (socket, "gethostname", ("host-1", "host-2")),
        (platform, "node", ("host-1", "host-2")),
        (os, "getpid", (4321, 8765)),
    ):
        replace(module, name, lambda run, real, values=values: lambda: values[run.holds("host")])  # type: ignore[misc]


def _install_clock() -> None:
    replace(time, "time", lambda run, real: run.time)
    replace(time, "time_ns", lambda run, real: lambda: int(run.time() * 1_000_000) * 1_000)
    for name in ("monotonic", "perf_counter", "process_time"):
        replace(time, name, lambda run, real: run.stopwatch)
    for name in ("localtime", "gmtime", "ctime"):
        replace(time, name, lambda run, real: lambda seconds=None: real(run.time() if seconds is None else seconds))
    replace(time, "strftime", _strftime)
    replace_classmethod(datetime.datetime, "now", lambda run, cls, tz=None: cls.fromtimestamp(run.time(), tz))
    replace_classmethod(
        datetime.datetime,
        "utcnow",
        lambda run, cls: cls.fromtimestamp(run.time(), datetime.UTC).replace(tzinfo=None),
    )
    replace_classmethod(datetime.date, "today", lambda run, cls: cls.fromtimestamp(run.time()))


def _strftime(run: Run, real: Callable[..., str]) -> Callable[..., str]:
    return lambda text, moment=None: real(text, time.localtime() if moment is None else moment)


def _install_chance() -> None:
    for name, value in list(vars(random).items()):
        if getattr(value, "__self__", None) is random._inst and name not in ("seed", "getstate", "setstate"):
            replace(random, name, lambda run, real, name=name: getattr(run.generator("random"), name))  # type: ignore[misc]
    replace(random, "seed", lambda run, real: run.seed)
    replace(os, "urandom", lambda run, real: run.generator("urandom").randbytes)
    random._urandom = os.urandom  # type: ignore[attr-defined]  # SystemRandom, and with it secrets
    uuid._generate_time_safe = None  # type: ignore[attr-defined]  # uuid1() by the replaced clock
    random.Random.seed = _seed  # type: ignore[assignment]


def _seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
    """A generator without a seed is seeded by chance, too."""
    if a is None and current() is not None and not isinstance(generator, random.SystemRandom):
        a = int.from_bytes(os.urandom(32), "big")
    _real_seed(generator, a, version)
