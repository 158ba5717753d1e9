"""What a piece of work has done that running it again would do twice (rule 3).

`Effects` counts, while it is entered, what is final: entries committed, commands proposed, outcomes unknown.
It goes by context variables, so that it holds in threads that asgiref starts for a request, too.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

_current: ContextVar[Effects | None] = ContextVar("raftlog_effects", default=None)


class Effects:
    """Entered around work that may be run again. Nests: what an inner one saw, its outer ones have seen."""

    def __init__(self, attempt: int = 1) -> None:
        self.count = 0
        # How often the work has been begun, this time included.
        self.attempt = attempt
        # A commit ended in a conflict, whatever became of the exception.
        self.has_conflicted = False
        self._outer: Effects | None = None
        self._token: Token[Effects | None] | None = None

    def __enter__(self) -> Effects:
        self._outer = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)

    def happened(self) -> None:
        self.count += 1
        if self._outer is not None:
            self._outer.happened()


def current() -> Effects | None:
    """Of the work that is under way and may be run again; None: nobody would run it again."""
    return _current.get()


def conflicted() -> None:
    """A commit ended in a conflict."""
    effects = _current.get()
    if effects is not None:
        effects.has_conflicted = True


def happened() -> None:
    """Something final: an entry was committed, a command proposed, or an outcome is unknown."""
    effects = _current.get()
    if effects is not None:
        effects.happened()
