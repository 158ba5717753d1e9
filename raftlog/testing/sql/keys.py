"""Idempotency keys in the simulation: clients use them, and those of others, on whatever host and in whatever session.

What must hold: of all entries under one key one has an effect, and whoever was answered was told that one's result.
Drawn from sources of its own, so that runs without keys stay as they were.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

from raftlog.replication.keyed import IdempotencyName

REPEATS: Final = 0.6  # how often a key is one that was used before
REMEMBERED: Final = 8  # the newest keys, which may still be on their way


@dataclass(slots=True)
class Used:
    """One key, and what was asked for under it: a command, or ("", {}) for a transaction."""

    key: str
    command: str
    arguments: dict[str, Any]

    @property
    def name(self) -> IdempotencyName:
        return IdempotencyName("", self.key)


@dataclass(slots=True)
class Keys:
    """All keys of one run."""

    # Of the programs and commands that have one; 0: none has, and there is no table.
    share: float
    commands: list[Used] = field(default_factory=list)
    transactions: list[Used] = field(default_factory=list)

    def draw(self, rng: random.Random, command: str = "", arguments: dict[str, Any] | None = None) -> Used | None:
        """A new key for this, or one that was used before, with what was asked for then; None: it has no key."""
        if not self.share or rng.random() >= self.share:
            return None
        used = self.commands if command else self.transactions
        if used and rng.random() < REPEATS:
            return rng.choice(used[-REMEMBERED:])
        made = Used(f"{command[:1] or 't'}{len(self.commands) + len(self.transactions)}", command, arguments or {})
        used.append(made)
        return made


def draw_keys(rng: random.Random) -> Keys:
    return Keys(rng.choice((0.0, 0.0, 0.15, 0.4)))
