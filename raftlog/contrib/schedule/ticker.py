"""The thread of each node that fires jobs while its node leads.

It decides by this host's clock and database, which may both be behind: what it proposes holds only if the job stands
where it thought (commands.fire), so a mistake costs an entry, and nothing else.
"""

from __future__ import annotations

import datetime
import logging
from typing import Any, Final

from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from raftlog.contrib.schedule import commands
from raftlog.contrib.schedule.jobs import Job, all_jobs
from raftlog.contrib.schedule.models import JobState
from raftlog.exceptions import ProposalError

logger = logging.getLogger("raftlog.schedule")

LONGEST_WAIT: Final = 0.5  # seconds between two looks: who leads, what other nodes have fired
TROUBLE_PAUSE: Final = 1.0
MAX_FIRED: Final = 100  # of one job in one look, so that one with much to catch up on does not hold up the others


def run(node: Any) -> None:
    """A raftlog.node_service: until the node stops."""
    while not node.stopping.is_set():
        if not node.is_leader():
            node.stopping.wait(LONGEST_WAIT)
            continue
        try:
            pause = tick(node.node_id, timezone.now(), lambda: node.is_leader() and not node.stopping.is_set())
        except (DatabaseError, ProposalError) as error:
            logger.warning("jobs are looked at again in %g s: %s", TROUBLE_PAUSE, error)
            pause = TROUBLE_PAUSE
        close_old_connections()
        node.stopping.wait(pause)


def tick(node_id: str, now: datetime.datetime, goes_on: Any) -> float:
    """Fire what is due. Returns in how many seconds something may be due again. Raises ProposalError, DatabaseError."""
    known = list(all_jobs())
    states = {state.name: state.last_due for state in JobState.objects.all()}
    if new := [job.name for job in known if job.name not in states]:
        commands.see.propose(jobs=new)
        states = {state.name: state.last_due for state in JobState.objects.all()}
    wait = LONGEST_WAIT
    for job in known:
        last_due = states.get(job.name)
        for _ in range(MAX_FIRED):
            if last_due is None or not goes_on():
                break
            due = job.next_due(last_due, now)
            if due is None:
                following = job.times.after(last_due)
                if following <= now:  # missed, and left out
                    following = job.times.after(now)
                wait = min(wait, max((following - now).total_seconds(), 0.01))
                break
            if not fire(job, last_due, due, node_id):
                break  # others have fired it, or log time is behind: look again
            last_due = due
        else:
            wait = 0.0
    return wait


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
        logger.error("job %s, due %s, failed on every node alike: %s", job.name, due, error)
        fired = commands.fire.propose(**arguments, error=f"{type(error).__name__}: {error}"[:2_000])
    return bool(fired)
