"""What happens to queued tasks, in the log: claimed, renewed, completed, given back, pruned.

A claim is known by its token, the index of the entry that made it. Only the current claim of a task completes it, so a
task is completed once, however often it was tried: a completion that comes late, after the task was claimed again,
names an older token and is refused.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from django.db.models import DateTimeField, F, Value
from django.db.models.functions import Coalesce

from raftlog import command
from raftlog.contrib.queue.models import QueuedTask, State
from raftlog.contrib.queue.signals import task_finished

MAX_CLAIMS = 1_000  # tasks of one claim: bounds what one entry does
MAX_PRUNED = 1_000
MAX_ERRORS = 10  # failed attempts that are remembered of a task
MAX_BACKOFF = 86_400.0  # seconds


@command(name="raftlog_queue.claim")
def claim(ctx: Any, *, worker: str, queues: list[str], count: int) -> list[str]:
    """Give `worker` up to `count` tasks that are due, of `queues` (none: of all): their ids, as hex, in order.

    The highest priority first, then what has been due for longest. The token of each claim is this entry's index.
    Claims whose time is up are taken back first.
    """
    count = max(0, min(count, MAX_CLAIMS))
    take_back(ctx.now)
    due = QueuedTask.objects.filter(state=State.READY, run_after__lte=ctx.now)
    # One query for each queue: each walks along an index, and stops.
    parts = [due.filter(queue=queue) for queue in sorted(set(queues))] if queues else [due]
    found: list[tuple[int, datetime.datetime, Any, float]] = []
    for part in parts:
        rows = part.order_by("-priority", "run_after", "id").values_list("priority", "run_after", "id", "visibility")
        found += list(rows[:count])
    found.sort(key=lambda row: (-row[0], row[1], row[2]))
    by_visibility: dict[float, list[Any]] = {}
    chosen = found[:count]
    for _, _, task_id, visibility in chosen:
        by_visibility.setdefault(visibility, []).append(task_id)
    for visibility, ids in by_visibility.items():
        QueuedTask.objects.filter(pk__in=ids).update(
            state=State.RUNNING,
            claim=ctx.index,
            worker=worker,
            attempts=F("attempts") + 1,
            started_at=Coalesce("started_at", Value(ctx.now, DateTimeField())),
            last_attempted_at=ctx.now,
            claimed_until=later(ctx.now, visibility),
        )
    return [row[2].hex for row in chosen]


def take_back(now: datetime.datetime) -> None:
    """Claims whose time is up count as failed attempts: the worker has died, hangs, or is slow."""
    for task in QueuedTask.objects.filter(claimed_until__lte=now).order_by("claimed_until", "id")[:MAX_CLAIMS]:
        text = f"its claim ran out at {task.claimed_until}: worker {task.worker} died, hung, or was too slow"
        fail(task, now, "raftlog.contrib.queue.exceptions.ClaimLost", text, may_wait=False)


@command(name="raftlog_queue.renew")
def renew(ctx: Any, *, claims: list[list[Any]]) -> list[bool]:
    """Let claims, [id, token] each, hold for their visibility from now on. Which of them are still held?"""
    held = current(claims)
    for task in held.values():
        task.claimed_until = later(ctx.now, task.visibility)
        task.save(update_fields=["claimed_until"])
    return [(task_id, token) in held for task_id, token in claims]


@command(name="raftlog_queue.complete")
def complete(ctx: Any, *, outcomes: list[list[Any]]) -> list[bool]:
    """Record how attempts ended: [id, token, result as JSON text, class of the exception or "", traceback] each.

    An attempt whose claim is not the task's current one changes nothing, and gets False. So does one that was
    recorded before, unless it has finished the task: then it gets True again.
    """
    claims = [[task_id, token] for task_id, token, *_ in outcomes]
    held = current(claims)
    recorded = set(held) | finished_before(claims, held)
    successes: dict[tuple[str | None, float], list[QueuedTask]] = {}
    for task_id, token, result, kind, text in outcomes:
        task = held.pop((task_id, token), None)
        if task is None:
            continue
        if kind:
            fail(task, ctx.now, kind, text)
        else:
            successes.setdefault((result, task.keep), []).append(task)
    for (result, _), tasks in successes.items():
        succeed(tasks, ctx.now, result)
    return [(task_id, token) in recorded for task_id, token in claims]


def current(claims: list[list[Any]]) -> dict[tuple[str, int], QueuedTask]:
    """The tasks that are held by these claims, [id, token] each."""
    found = QueuedTask.objects.in_bulk([task_id for task_id, _ in claims])
    tasks = {task.id.hex: task for task in found.values()}
    return {
        (task_id, token): tasks[task_id]
        for task_id, token in claims
        if task_id in tasks and holds(tasks[task_id], token)
    }


def finished_before(claims: list[list[Any]], held: dict[tuple[str, int], QueuedTask]) -> set[tuple[str, int]]:
    """Those of `claims`, [id, token] each, that are not held any more because they have finished their task."""
    rest = {(task_id, token) for task_id, token in claims if (task_id, token) not in held}
    if not rest:
        return set()
    found = QueuedTask.objects.filter(pk__in=[task_id for task_id, _ in rest], keep_until__isnull=False)
    return rest & {(task_id.hex, token) for task_id, token in found.values_list("pk", "claim")}


def holds(task: QueuedTask, token: int) -> bool:
    """Whether the claim with this token is the task's current one. It may be late, as long as nobody else has it."""
    return task.state == State.RUNNING and task.claim == token


def succeed(tasks: list[QueuedTask], now: datetime.datetime, result: str | None) -> None:
    """Tasks become SUCCESSFUL, all with this result (JSON text, None: nothing) and kept for the same time."""
    values = {"state": State.SUCCESSFUL, "result": None if result is None else json.loads(result)}
    finish(tasks, now, values)


def fail(task: QueuedTask, now: datetime.datetime, kind: str, text: str, *, may_wait: bool = True) -> None:
    """An attempt failed: the task is tried again later, or becomes a dead letter."""
    errors = [*task.errors, [task.worker, kind, text]][-MAX_ERRORS:]
    if task.attempts >= task.max_attempts:
        finish([task], now, {"state": State.FAILED, "errors": errors})
        return
    pause = min(task.backoff * 2 ** (task.attempts - 1), MAX_BACKOFF) if may_wait else 0.0
    again = {"state": State.READY, "errors": errors, "claimed_until": None, "run_after": later(now, pause)}
    QueuedTask.objects.filter(pk=task.pk).update(**again)


def finish(tasks: list[QueuedTask], now: datetime.datetime, values: dict[str, Any]) -> None:
    """The one place where tasks are finished."""
    values |= {"claimed_until": None, "finished_at": now, "keep_until": later(now, tasks[0].keep)}
    QueuedTask.objects.filter(pk__in=[task.pk for task in tasks]).update(**values)
    for task in tasks:
        for name, value in values.items():
            setattr(task, name, value)
        task_finished.send(sender=QueuedTask, task=task)


def later(now: datetime.datetime, seconds: float) -> datetime.datetime:
    return now + datetime.timedelta(seconds=seconds)


@command(name="raftlog_queue.release")
def release(ctx: Any, *, claims: list[list[Any]]) -> int:
    """Give back tasks that were claimed and not begun: they are no attempts. Returns how many were still held."""
    ids = [task.pk for task in current(claims).values()]
    return QueuedTask.objects.filter(pk__in=ids).update(
        state=State.READY, claimed_until=None, attempts=F("attempts") - 1
    )


@command(name="raftlog_queue.prune")
def prune(ctx: Any) -> int:
    """Remove finished tasks that were kept for long enough, the oldest first, up to a bound. Returns how many."""
    old = QueuedTask.objects.filter(keep_until__lte=ctx.now).order_by("keep_until", "id")
    ids = list(old.values_list("pk", flat=True)[:MAX_PRUNED])
    QueuedTask.objects.filter(pk__in=ids).delete()
    return len(ids)
