"""Redis as the other side of `raft bench --batteries`: a database and a prefix of its own, emptied afterwards."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

URL = os.environ.get("RAFTLOG_BENCH_REDIS", "redis://127.0.0.1:6379/9")
PREFIX = "raftlog-bench:"


def problem(needs: str = "redis") -> str:
    """Why Redis cannot be measured, by the client library `needs`; "" where it can."""
    for name in ("redis", needs):
        if importlib.util.find_spec(name) is None:
            return f"not measured: {name} is not installed"
    import redis

    try:
        with redis.Redis.from_url(URL, socket_connect_timeout=1) as client:
            client.ping()
    except redis.RedisError as error:
        return f"not measured: {URL} does not answer ({error})"
    return ""


def connect() -> Any:
    """A client of redis-py. For one thread."""
    import redis

    return redis.Redis.from_url(URL)


def clean_up() -> None:
    """Delete what has our prefix."""
    with connect() as client:
        for key in client.scan_iter(match=f"{PREFIX}*", count=1000):
            client.delete(key)


def side(name: str, measure: Callable[[], float], needs: str = "redis") -> tuple[str, float | None]:
    """(theirs_name, theirs_per_second) of a Row: measured where Redis answers, then cleaned up."""
    if why := problem(needs):
        return f"{name} ({why})", None
    try:
        return name, measure()
    finally:
        clean_up()


# Actions of an application process


def incr(key: str = "counter") -> Callable[[], int]:
    client = connect()

    def act() -> int:
        client.incr(f"{PREFIX}{key}")
        return 1

    return act


def get(key: str = "flag") -> Callable[[], int]:
    client = connect()
    client.set(f"{PREFIX}{key}", "1")

    def act() -> int:
        client.get(f"{PREFIX}{key}")
        return 1

    return act
