"""Commands that use batteries, as those of a project do."""

from __future__ import annotations

from typing import Any

from raftlog.contrib import sequences
from raftlog.replication.registry import command


@command
def draw_number(ctx: Any, *, sequence: str) -> int:
    """The next number of a sequence."""
    return int(sequences.draw(ctx, sequence))
