"""Idempotency keys as their callers give them; what becomes of them in the database: idempotency.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from raftlog.exceptions import IdempotencyKeyReused, InvalidArguments
from raftlog.replication import codec, failures
from raftlog.replication.codec import Keyed

MAX_KEY_LENGTH: Final = 200  # characters, of a key and of a scope

# Raised at the caller of propose() as what it is.
failures.declare([IdempotencyKeyReused], "raftlog")


class IdempotencyName(NamedTuple):
    """A key, and the scope in which it is one."""

    scope: str
    key: str

    def asking(self, *what: Any) -> Keyed:
        """The key and what is asked for under it. Raises InvalidArguments, CannotEncode."""
        for name, value, least in (("scope", self.scope, 0), ("key", self.key, 1)):
            if not isinstance(value, str) or not least <= len(value) <= MAX_KEY_LENGTH or not value.isprintable():
                shown = repr(value)
                raise InvalidArguments(
                    f"idempotency {name} {shown[:60]}{'…' if len(shown) > 60 else ''}: it must be a str of {least} to "
                    f"{MAX_KEY_LENGTH} printable characters"
                )
        return Keyed(self.scope, self.key, codec.digest(what))


# Keys for the commands that one request proposes


class _Numbered:
    def __init__(self, name: IdempotencyName) -> None:
        self._scope = name.scope
        # Room for the number: a longer key is taken by what stands for it.
        is_short = len(name.key) <= MAX_KEY_LENGTH - 10
        self._key = name.key if is_short else codec.digest(name.key).hex()
        self._count = 0

    def next(self) -> IdempotencyName:
        self._count += 1
        return IdempotencyName(self._scope, f"{self._key}/{self._count}")


_numbered: ContextVar[_Numbered | None] = ContextVar("raftlog_numbered_keys", default=None)


@contextmanager
def numbered_keys(scope: str, key: str) -> Iterator[None]:
    """Inside, commands that are proposed without a key get `key`/1, `key`/2, … in the order in which they are."""
    token = _numbered.set(_Numbered(IdempotencyName(scope, key)))
    try:
        yield
    finally:
        _numbered.reset(token)


def next_key() -> IdempotencyName | None:
    """For a command without a key of its own."""
    numbered = _numbered.get()
    return numbered.next() if numbered is not None else None
