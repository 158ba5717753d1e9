"""What an application tried, statement by statement, with what it saw: enough to run it again, alone and in order."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Ending(enum.Enum):
    """What the application was told."""

    OPEN = "open"  # nothing yet, or nothing any more: its process died
    APPLIED = "applied"
    READ = "read"  # it had changed nothing
    ROLLED_BACK = "rolled back"  # by itself, or by an error in a statement
    CONFLICT = "conflict"
    INTEGRITY = "integrity"
    NOT_PROPOSED = "not proposed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Call:
    """A statement and what came of it: ("rows", …), ("count", n), ("error", class). None: of no interest."""

    sql: str
    parameters: tuple[Any, ...] = ()
    result: Any = None


@dataclass(slots=True)
class Attempt:
    """One transaction, or a single statement outside of one, which may become several entries (`alone`)."""

    who: str
    alone: bool = False
    foreign_keys_off: bool = False
    calls: list[Call] = field(default_factory=list)
    # Applied index of the state that it saw; -1: it did not come to its end.
    base: int = -1
    ending: Ending = Ending.OPEN
    error: str = ""
    # Automatic keys that it used: (table, key).
    keys: list[tuple[str, int]] = field(default_factory=list)
    # Entries that were proposed for it: key of the payload.
    entries: list[bytes] = field(default_factory=list)
    # A command, in place of calls.
    command: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    # Its idempotency key, and the result that it was told, encoded; b"": none.
    key: str = ""
    told: bytes = b""

    def text(self) -> str:
        lines = [f"{self.who}, on entry {self.base}, {self.ending.value} {self.error}".rstrip()]
        if self.command:
            lines.append(f"  command {self.command} {self.arguments}")
        lines += [f"  {call.sql} {call.parameters or ''} -> {call.result}" for call in self.calls]
        return "\n".join(lines)
