"""The queue as seen from outside: lengths, ages, dead letters; and what an operator does about them.

Retrying and purging are plain writes of rows, so they join the transaction of their caller (the admin's, say).
"""

from __future__ import annotations

from typing import Any, Final

from django.db.models import Count, Min, Q, QuerySet
from django.utils import timezone

from raftlog.contrib.queue.models import QueuedTask, State

PURGED_AT_ONCE: Final = 500


def lengths() -> list[dict[str, Any]]:
    """For each queue: tasks due, waiting for their time, running, failed, successful; age of the oldest due one."""
    now = timezone.now()
    is_due = Q(state=State.READY, run_after__lte=now)
    rows = (
        QueuedTask.objects.values("queue")
        .annotate(
            due=Count("pk", filter=is_due),
            later=Count("pk", filter=Q(state=State.READY, run_after__gt=now)),
            running=Count("pk", filter=Q(state=State.RUNNING)),
            failed=Count("pk", filter=Q(state=State.FAILED)),
            successful=Count("pk", filter=Q(state=State.SUCCESSFUL)),
            oldest=Min("run_after", filter=is_due),
        )
        .order_by("queue")
    )
    return [{**row, "oldest": _age(now, row["oldest"])} for row in rows]


def _age(now: Any, since: Any) -> float | None:
    """Seconds."""
    return None if since is None else round((now - since).total_seconds(), 1)


def dead_letters(limit: int = 20) -> list[dict[str, Any]]:
    """The newest of them: id, name, queue, attempts, when it failed, and the last line of why."""
    rows = QueuedTask.objects.filter(state=State.FAILED).order_by("-finished_at", "id")[:limit]
    return [
        {
            "id": str(row.pk),
            "name": row.name,
            "queue": row.queue,
            "attempts": row.attempts,
            "finished_at": row.finished_at,
            "error": (row.error.strip().splitlines() or [""])[-1],
        }
        for row in rows
    ]


def selected(*, queue: str = "", ids: list[str] | None = None, state: str = State.FAILED) -> QuerySet[QueuedTask]:
    """Tasks of a state, of a queue ("": of all), of these ids (None: any). Raises ValidationError for what is no id."""
    rows = QueuedTask.objects.filter(state=state)
    if queue:
        rows = rows.filter(queue=queue)
    return rows if ids is None else rows.filter(pk__in=ids)


def retry(rows: QuerySet[QueuedTask]) -> int:
    """Dead letters among `rows` become due again, with all their attempts before them. Returns how many."""
    return rows.filter(state=State.FAILED).update(
        state=State.READY, attempts=0, run_after=timezone.now(), finished_at=None, keep_until=None, claim=0, worker=""
    )


def purge(rows: QuerySet[QueuedTask]) -> int:
    """Remove those of `rows` that nobody runs, so many in a transaction that it stays small. Returns how many."""
    removable = rows.exclude(state=State.RUNNING).order_by("id")
    total = 0
    while ids := list(removable.values_list("pk", flat=True)[:PURGED_AT_ONCE]):
        count, _ = QueuedTask.objects.filter(pk__in=ids).exclude(state=State.RUNNING).delete()
        total += count
        if not count:
            break  # somebody has claimed them meanwhile
    return total
