"""What a command gets as its first argument: time, chance and names that are the same on every node."""

from __future__ import annotations

import datetime
import hashlib
import random
import threading
import uuid
from collections.abc import Callable
from typing import Any, Final

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

applying = threading.local()


def is_applying() -> bool:
    """Whether this thread is running a command out of the log (or its signals and on_commit hooks).

    These run on every node. Code with effects outside the database asks this, or uses ctx.on_leader().
    """
    return getattr(applying, "command", None) is not None


class CommandContext:
    """One entry, as its command sees it. Unit tests make their own: `buy(CommandContext(index=7), item_id=3)`.

    Everything here follows from the entry, so it is the same on every node and on every attempt.
    """

    __slots__ = ("_random", "command", "effects", "index", "log_time", "term")

    def __init__(self, *, index: int = 1, term: int = 1, log_time: int = 0, command: str = "") -> None:
        # Index of the entry in the log: unique, rising, never given twice. Makes a good primary key.
        self.index = index
        # Term of the leader that took the entry in.
        self.term = term
        # Microseconds since the epoch, from the leader's clock. Invariant: never goes back from entry to entry.
        self.log_time = log_time
        # Name of the command.
        self.command = command
        # What on_leader() collected.
        self.effects: list[Callable[[], Any]] = []
        self._random: random.Random | None = None

    @property
    def now(self) -> datetime.datetime:
        """The time of the entry, aware, in UTC. Use it in place of timezone.now()."""
        return _EPOCH + datetime.timedelta(microseconds=self.log_time)

    @property
    def random(self) -> random.Random:
        """A generator seeded by the entry. Use it in place of the module random. Not for secrets."""
        if self._random is None:
            seed = f"{self.index}:{self.term}:{self.command}".encode()
            self._random = random.Random(int.from_bytes(hashlib.blake2b(seed, digest_size=16).digest(), "big"))
        return self._random

    def uuid(self) -> uuid.UUID:
        """A version 4 UUID from `random`. Use it in place of uuid4()."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def on_leader(self, function: Callable[[], Any]) -> None:
        """Call `function` once the entry is committed to the database, on the node that leads then.

        At most once: it is lost if that node dies first, and not called where the command fails. It runs in the
        thread that applies the log: hand long work to a queue. What it raises is logged.
        """
        self.effects.append(function)
