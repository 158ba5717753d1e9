"""huey on Redis, for the queue's benchmark: what its consumer and its client import."""

from __future__ import annotations

from huey import RedisHuey

from raftlog.testing.bench import redis_side

NAME = f"{redis_side.PREFIX}huey"

app = RedisHuey(NAME, url=redis_side.URL)


@app.task()  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    return number
