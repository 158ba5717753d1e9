"""Celery on Redis, for the queue's benchmark: what its worker and its client import."""

from __future__ import annotations

from celery import Celery

from raftlog.testing.bench import redis_side

app = Celery("bench", broker=redis_side.URL, backend=redis_side.URL)
app.conf.update(
    task_default_queue=f"{redis_side.PREFIX}celery",
    broker_transport_options={"global_keyprefix": redis_side.PREFIX},
    result_backend_transport_options={"global_keyprefix": redis_side.PREFIX},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=100,  # as is advised for short tasks
)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    return number
