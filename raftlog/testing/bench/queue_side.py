"""Celery and huey on Redis, as the other side of the queue's figures: an application of each, and a task for it.

Workers import it by name: `python -m celery --app raftlog.testing.bench.queue_side:celery worker`,
`python -m huey.bin.huey_consumer raftlog.testing.bench.queue_side.huey`.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from raftlog.testing.bench.redis_side import PREFIX, URL

RESULT_TIMEOUT = 30.0  # seconds


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def make_celery() -> Any:
    from celery import Celery

    app = Celery("raftlog-bench", broker=URL, backend=URL)
    keys = {"global_keyprefix": PREFIX}
    app.conf.update(
        broker_transport_options=keys,
        result_backend_transport_options=keys,
        task_acks_late=True,  # at least once, as ours
        worker_prefetch_multiplier=20,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app


def make_huey() -> Any:
    from huey import RedisHuey

    return RedisHuey(PREFIX.strip(":"), url=URL)


celery: Any = make_celery() if is_installed("celery") else None
huey: Any = make_huey() if is_installed("huey") else None


def nothing() -> int:
    return 1


celery_nothing: Any = celery.task(name="nothing")(nothing) if celery else None
huey_nothing: Any = huey.task(name="nothing")(nothing) if huey else None
