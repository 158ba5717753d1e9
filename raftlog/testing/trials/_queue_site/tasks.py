"""The tasks of the trial."""

from __future__ import annotations

import os
from typing import Any

from raftlog.contrib.queue import task
from raftlog.runtime import clock

VISIBILITY = float(os.environ.get("RAFTLOG_TRIAL_VISIBILITY", "3"))
OPTIONS: dict[str, Any] = {"visibility": VISIBILITY, "max_attempts": 1_000, "backoff": 0.2, "keep": 1e6}


@task(**OPTIONS)  # type: ignore[untyped-decorator]
def plain(number: int) -> int:
    """Every hundredth takes a while, and some longer than a claim holds, so that it must be renewed."""
    if number % 1_000 == 501:
        clock.sleep(VISIBILITY * 1.5)
    elif number % 100 == 1:
        clock.sleep(0.1)
    return number


@task(transactional=True, **OPTIONS)  # type: ignore[untyped-decorator]
def stored(number: int) -> int:
    from raftlog.testing.trials._queue_site.models import Effect

    Effect.objects.create(number=number)
    if number % 50 == 0:
        clock.sleep(0.05)  # a moment in which to be killed
    return number
