"""Arithmetic of majorities, aware of joint configurations (paper §5.2, §5.3, §6).

In a joint configuration every decision needs a majority of the voters *and* one of the outgoing voters.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from raftlog.consensus.configuration import Configuration

Number = TypeVar("Number", int, float)


class VoteResult(enum.Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority_of(count: int) -> int:
    """How many of `count` servers are a majority."""
    return count // 2 + 1


def majority_value(configuration: Configuration, values: Mapping[str, Number], missing: Number) -> Number:
    """The largest value that a majority has reached: each of a majority has it or more.

    Servers without a value count as `missing`, which is also the answer where there are no voters.
    """
    if not configuration.voters:
        return missing
    value = _majority_value(configuration.voters, values, missing)
    if configuration.outgoing:
        value = min(value, _majority_value(configuration.outgoing, values, missing))
    return value


def _majority_value(voters: tuple[str, ...], values: Mapping[str, Number], missing: Number) -> Number:
    reached = sorted([values.get(voter, missing) for voter in voters])
    return reached[len(reached) - majority_of(len(reached))]


def vote_result(configuration: Configuration, votes: Mapping[str, bool]) -> VoteResult:
    """WON once a majority of each part granted, LOST once a majority of one part cannot grant any more."""
    if not configuration.voters:
        return VoteResult.LOST
    results = {_vote_result(configuration.voters, votes)}
    if configuration.outgoing:
        results.add(_vote_result(configuration.outgoing, votes))
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def _vote_result(voters: tuple[str, ...], votes: Mapping[str, bool]) -> VoteResult:
    granted = sum(votes.get(voter, False) for voter in voters)
    refused = sum(not votes.get(voter, True) for voter in voters)
    needed = majority_of(len(voters))
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.LOST if len(voters) - refused < needed else VoteResult.PENDING


def unanimous_result(configuration: Configuration, votes: Mapping[str, bool]) -> VoteResult:
    """The first election of a cluster needs every first member (rule 4 of the design)."""
    if not configuration.voters or not all(votes.get(voter, True) for voter in configuration.voters):
        return VoteResult.LOST
    return VoteResult.WON if all(voter in votes for voter in configuration.voters) else VoteResult.PENDING
