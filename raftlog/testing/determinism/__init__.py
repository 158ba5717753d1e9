"""Is a project's command the same on every node? It is run under other conditions, and what differs is named by line.

    @example(item_id=3)              # what `manage.py raft determinism` tries
    @command
    def buy(ctx, *, item_id): ...

    raft_determinism.check(buy, item_id=3)      # in a test, on the test's data

The pieces: cases.py, what is run; conditions.py, under what; worker.py, a process that runs them, over sources.py,
which stands between a command and clock or chance; checker.py, what differs and why; static.py, what the code shows.

This module imports no Django: a project's own modules may import `example` from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Example", "example", "examples"]


class Example(NamedTuple):
    """Arguments with which a command can be tried, and what makes the rows that it needs."""

    command: Any
    arguments: dict[str, Any]
    given: Callable[[], object] | None


_examples: list[Example] = []


def example(given: Callable[[], object] | None = None, /, **arguments: Any) -> Callable[[Any], Any]:
    """Say how a command can be tried; stands above @command, as often as you like.

    Args:
        given: called before, on an empty migrated database or the fixtures given: makes the rows that it needs.
        arguments: of the command.

    Raises TypeError below @command, and where the arguments do not fit the command.
    """

    def note(command: Any) -> Any:
        if not hasattr(command, "propose"):
            raise TypeError(f"@example stands above @command, not below it: {command!r}")
        command.arguments.check(getattr(command, "__qualname__", "the command"), arguments)
        _examples.append(Example(command, arguments, given))
        return command

    return note


def examples() -> list[Example]:
    """All that the modules imported so far have declared."""
    return list(_examples)
