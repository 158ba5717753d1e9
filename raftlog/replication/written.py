"""The index of the last entry that a context (a request, a task, a thread) has written.

It goes by context variables, and by an object that they hold: so what threads write that asgiref starts for a
request is seen by the request.
"""

from __future__ import annotations

from contextvars import ContextVar, Token


class Written:
    """Entered around work whose writes are to be known. Nests: what an inner one saw, its outer ones have seen."""

    def __init__(self) -> None:
        # Index of the newest entry that the work has written, 0: none.
        self.index = 0
        self._outer: Written | None = None
        self._token: Token[Written | None] | None = None

    def __enter__(self) -> Written:
        self._outer = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)

    def note(self, index: int) -> None:
        self.index = max(self.index, index)
        if self._outer is not None:
            self._outer.note(index)


_current: ContextVar[Written | None] = ContextVar("raftlog_written", default=None)


def note(index: int) -> None:
    """An entry at `index` was written by the work that is under way: a transaction committed, a command applied."""
    written = _current.get()
    if written is None:
        written = Written()
        _current.set(written)
    written.note(index)


def last_index() -> int:
    """Index of the last entry that this context has written, 0 where it has written none.

    A context is a thread, a task of asyncio, or a request under ReadYourWrites. What a transaction or command wrote
    counts once it has returned; one that failed has written nothing. Give the index to `catch_up()` on another
    host, or in another process, to read there what was written here.
    """
    written = _current.get()
    return 0 if written is None else written.index
