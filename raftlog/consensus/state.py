"""The persistent part of Figure 2's "State" box, as values that storage keeps and the core reads."""

from __future__ import annotations

import enum

import msgspec


class Role(enum.Enum):
    """Figure 2's "Rules for Servers": followers, candidates, leaders; and pre-candidates (dissertation §9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class HardState(msgspec.Struct, array_like=True, frozen=True):
    """Figure 2's persistent state except the log. `voted_for` is "" where no vote was given in `current_term`."""

    current_term: int = 0
    voted_for: str = ""


class TermRun(msgspec.Struct, array_like=True, frozen=True):
    """From `first_index` on, entries have `term`, up to the next run."""

    first_index: int
    term: int
