"""What happens to jobs, in the log: seen for the first time, fired.

A firing names the due time before it, and holds only if that is what the job stands at. So of all that propose the same
due time (an old leader and a new one, a proposal that was repeated) one gets through, and none is left out between two.
"""

from __future__ import annotations

import datetime
from typing import Any

from raftlog import command
from raftlog.contrib.queue import QueuedTask, enqueue_described
from raftlog.contrib.schedule.jobs import find_command
from raftlog.contrib.schedule.models import JobState, Run
from raftlog.models import require_table

KEPT_RUNS = 50  # of each job
EARLY = datetime.timedelta(seconds=1)  # by which a due time may be ahead of log time


@command(name="raftlog_schedule.see")
def see(ctx: Any, *, jobs: list[str]) -> None:
    """Jobs that are new count from now on."""
    for name in sorted(set(jobs)):
        JobState.objects.get_or_create(name=name, defaults={"last_due": ctx.now})


@command(name="raftlog_schedule.fire")
def fire(
    ctx: Any,
    *,
    job: str,
    after: datetime.datetime,
    due: datetime.datetime,
    node: str,
    call: dict[str, Any],
    error: str = "",
) -> bool:
    """Run `job` for its due time `due`, if nobody has: enqueue its task, or run its command, as `call` says.

    `after` is the due time at which the job must stand. `error`: the command was tried and failed, which is
    recorded in place of a run. False: nothing was done, as the job has gone on already or it is not time yet.
    """
    if not may_fire(job, after, due) or due > ctx.now + EARLY:
        return False
    JobState.objects.filter(pk=job).update(last_due=due)
    run = Run(index=ctx.index, job=job, due=due, fired_at=ctx.now, node=node, error=error)
    if not error and "task" in call:
        require_table(QueuedTask, "the queue")
        run.task = enqueue_described(ctx, call["task"]).pk.hex
    elif not error:
        find_command(call["command"], call["version"])(ctx)
    run.save(force_insert=True)
    old = Run.objects.filter(job=job).order_by("-due").values_list("pk", flat=True)[KEPT_RUNS:]
    Run.objects.filter(pk__in=list(old)).delete()
    return True


def may_fire(job: str, after: datetime.datetime, due: datetime.datetime) -> bool:
    """Whether the job stands at `after`, and `due` is later."""
    state = JobState.objects.filter(pk=job).first()
    return state is not None and state.last_due == after < due
