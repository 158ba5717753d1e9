"""The thread of each node that fires jobs while its node leads.

It decides by this host's clock and database, which may both be behind: what it proposes holds only if the job stands
where it thought (commands.fire), so a mistake costs an entry, and nothing else.
"""

from __future__ import annotations

import datetime
import heapq
import logging
from collections.abc import Callable
from typing import Any, Final

from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from raftlog.contrib.queue import QueuedTask
from raftlog.contrib.schedule import commands
from raftlog.contrib.schedule.jobs import Job, all_jobs
from raftlog.contrib.schedule.models import JobState
from raftlog.exceptions import ProposalError
from raftlog.log_fields import log_fields

logger = logging.getLogger("raftlog.schedule")

LONGEST_WAIT: Final = 0.5  # seconds between two looks: who leads, what other nodes have fired
TROUBLE_PAUSE: Final = 1.0
MAX_FIRED: Final = 200  # in one look; then the clock is looked at again


def run(node: Any) -> None:
    """A raftlog.node_service: until the node stops."""
    while not node.stopping.is_set():
        if not node.is_leader():
            node.stopping.wait(LONGEST_WAIT)
            continue
        try:
            pause = tick(node.node_id, timezone.now(), lambda: node.is_leader() and not node.stopping.is_set())
        except (DatabaseError, ProposalError) as error:
            logger.warning(
                "jobs are looked at again in %g s: %s",
                *(TROUBLE_PAUSE, error),
                extra=log_fields("database_unusable", reason=str(error)),
            )
            pause = TROUBLE_PAUSE
        close_old_connections()
        node.stopping.wait(pause)


def tick(node_id: str, now: datetime.datetime, goes_on: Callable[[], bool]) -> float:
    """Fire what is due, what has been due for longest first, so that no job has to wait for others that fail.

    Returns in how many seconds something may be due again. Raises ProposalError, DatabaseError.
    """
    known = {job.name: job for job in all_jobs()}
    states = {state.name: state.last_due for state in JobState.objects.all()}
    if new := sorted(set(known) - set(states)):
        commands.see.propose(jobs=new)
        states = {state.name: state.last_due for state in JobState.objects.all()}
    due = [(when, name) for name in known if name in states and (when := known[name].next_due(states[name], now))]
    heapq.heapify(due)
    if due:
        QueuedTask.objects.exists()  # without its table nothing is fired
    for _ in range(MAX_FIRED):
        if not due or not goes_on():
            break
        when, name = heapq.heappop(due)
        if not fire(known[name], states[name], when, node_id):
            continue  # others have fired it, or log time is behind: look again
        states[name] = when
        if following := known[name].next_due(when, now):
            heapq.heappush(due, (following, name))
    else:
        return 0.0
    return min([LONGEST_WAIT, *(until_next(known[name], states[name], now) for name in known if name in states)])


def until_next(job: Job, last_due: datetime.datetime, now: datetime.datetime) -> float:
    following = job.times.after(last_due)
    if following <= now:  # missed, and left out
        following = job.times.after(now)
    return max((following - now).total_seconds(), 0.01)


def fire(job: Job, last_due: datetime.datetime, due: datetime.datetime, node_id: str) -> bool:
    """Propose it. A command that fails has had its run: its failure is recorded, so that the next due time can come."""
    arguments = {"job": job.name, "after": last_due, "due": due, "node": node_id, "call": job.call()}
    try:
        fired = commands.fire.propose(**arguments)
    except ProposalError:
        raise
    except Exception as error:
        if not job.is_command:
            raise
        logger.error(
            "job %s, due %s, failed on every node alike: %s",
            *(job.name, due, error),
            extra=log_fields("job_failed", about=job.name, reason=str(error)),
        )
        fired = commands.fire.propose(**arguments, error=f"{type(error).__name__}: {error}"[:2_000])
    return bool(fired)
