"""Asking whether one more is allowed: exactly, by one entry of the log, or approximately, out of a lease."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import router

from raftlog import InsideTransaction, InvalidArguments, clock, is_applying
from raftlog.contrib.ratelimit.commands import take, tokens_left, wait_for
from raftlog.contrib.ratelimit.leases import leases
from raftlog.contrib.ratelimit.models import NAME_LENGTH, Bucket
from raftlog.contrib.ratelimit.rates import Rate, parse_rate

LEASE_SHARE = 20  # a lease is one in so many of the tokens


class Limit(NamedTuple):
    """An answer. Its truth is `allowed`.

    `remaining`: tokens that were left. `retry_after`: seconds until it is worth asking again; 0 where it was allowed.
    """

    allowed: bool
    remaining: int
    retry_after: float

    def __bool__(self) -> bool:
        return self.allowed


def check(name: str, rate: str, cost: int = 1, *, approximate: bool = False) -> Limit:
    """Take `cost` tokens out of the bucket `name`, if it has so many.

    A bucket holds the tokens of one period, and is filled steadily: `"10/m"` lets 10 through at once, and then one
    every six seconds. Never more than 10 and what came back since, in the whole cluster.

    Args:
        rate: how many in which time: "10/m", "100/15min", "5/s", "1000/d".
        cost: tokens, from 1 to all that the bucket holds.
        approximate: out of tokens that this process took in advance, a twentieth of the bucket at a time,
            so that most answers need no entry. Those it does not use within a period are lost.

    Raises:
        InvalidArguments: a name, rate or cost that is none.
        InsideTransaction: in an open transaction or inside a command.
        NotProposed, OutcomeUnknown: as any command. Whether to let through then is for the caller to say.

    Thread-safe.
    """
    parsed = _checked(name, rate, cost)
    if approximate and leases.use(name, parsed, cost):
        return Limit(True, leases.left(name), 0.0)
    refused = _refused_here(name, parsed, cost)
    if refused is not None:
        return refused
    wanted = _wanted(parsed, cost, approximate)
    answer = _ask(name, lambda: take.propose(**_arguments(name, parsed, cost, wanted)))
    return _limit(name, parsed, cost, answer)


async def acheck(name: str, rate: str, cost: int = 1, *, approximate: bool = False) -> Limit:
    """As check(), without blocking the event loop."""
    parsed = _checked(name, rate, cost)
    if approximate and leases.use(name, parsed, cost):
        return Limit(True, leases.left(name), 0.0)
    refused = await sync_to_async(_refused_here)(name, parsed, cost)
    if refused is not None:
        return refused
    wanted = _wanted(parsed, cost, approximate)
    return _limit(name, parsed, cost, await take.apropose(**_arguments(name, parsed, cost, wanted)))


ratelimit = check  # as raftlog.ratelimit


def _checked(name: Any, rate: str, cost: Any) -> Rate:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or "\0" in name:
        raise InvalidArguments(f"the rate limit's name is {name!r}; it must be text of 1 to {NAME_LENGTH} characters")
    try:
        parsed = parse_rate(rate)
    except (ValueError, TypeError) as error:
        raise InvalidArguments(f"rate limit {name!r}: {error}") from None
    if type(cost) is not int or not 0 < cost <= parsed.burst:
        raise InvalidArguments(
            f"rate limit {name!r}: cost is {cost!r}; of {rate!r} it must be from 1 to {parsed.burst}"
        )
    return parsed


def _refused_here(name: str, rate: Rate, cost: int) -> Limit | None:
    """A refusal that needs no entry: a bucket only gets emptier by what this host has not applied yet."""
    found = Bucket.objects.using(router.db_for_read(Bucket)).filter(pk=name).values_list("full_at", flat=True).first()
    now = clock.wall_microseconds()
    wait = wait_for(found, now, cost, rate.burst, rate.interval)
    if not wait:
        return None
    # By a clock that is far behind, it would be longer than a bucket takes to fill.
    return Limit(False, tokens_left(found, now, *rate), _seconds(wait)) if wait <= rate.period * 1e6 else None


def _wanted(rate: Rate, cost: int, approximate: bool) -> int:
    return max(cost, rate.burst // LEASE_SHARE) if approximate else cost


def _arguments(name: str, rate: Rate, cost: int, wanted: int) -> dict[str, Any]:
    return {"name": name, "tokens": wanted, "at_least": cost, "burst": rate.burst, "interval": rate.interval}


def _ask(name: str, propose: Any) -> dict[str, int]:
    try:
        answer: dict[str, int] = propose()
    except InsideTransaction as error:
        where = "a command" if is_applying() else "an open transaction"
        raise InsideTransaction(
            f"rate limit {name!r} inside {where}: its answer comes from the log, after that has ended. Ask before it; "
            "the decorator does so for views under ATOMIC_REQUESTS"
        ) from error
    return answer


def _limit(name: str, rate: Rate, cost: int, answer: dict[str, int]) -> Limit:
    if not answer["taken"]:
        return Limit(False, answer["left"], _seconds(answer["wait"]))
    if answer["taken"] > cost:
        leases.put(name, rate, answer["taken"] - cost)
    return Limit(True, answer["left"], 0.0)


def _seconds(microseconds: int) -> float:
    return math.ceil(microseconds / 1000) / 1000
