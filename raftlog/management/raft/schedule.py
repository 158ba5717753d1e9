"""`raft schedule`: jobs, when they ran last, and when they run next."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.db.utils import Error as DatabaseError
from django.utils import timezone

from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb


class ScheduleVerb(Verb):
    name = "schedule"
    help = "Show the jobs of raftlog.contrib.schedule: when they ran last, and when they run next."
    epilog = """\
Times are in UTC. A job that no leader has seen yet counts from the moment at which one does. What has run is from this
host's database; when a job runs next is from its code.

examples:
  manage.py raft schedule
  manage.py raft schedule --runs 10               and the newest runs
  manage.py raft schedule --json | jq '.jobs[].next'

exit codes:
  0  shown
  1  the app is not installed, or the database cannot be read
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--runs", type=int, default=0, metavar="N", help="show the newest N runs too")

    def run(self, options: dict[str, Any], output: Output) -> int:
        if not apps.is_installed("raftlog.contrib.schedule"):
            raise CommandError('add "raftlog.contrib.schedule" to INSTALLED_APPS, and migrate')
        try:
            found, runs = _jobs(), _runs(options["runs"])
        except DatabaseError as error:
            raise CommandError(f"the jobs' tables cannot be read: {error}") from error
        output.result({"jobs": found, "runs": runs})
        columns = ["job", "times", "last_due", "last_error", "next", "catch_up"]
        output.show(table(columns, [[row[column] for column in columns] for row in found]))
        if runs:
            columns = ["job", "due", "fired_at", "node", "task", "error"]
            output.show(table(columns, [[row[column] for column in columns] for row in runs], title="runs"))
        return 0


def _jobs() -> list[dict[str, Any]]:
    from raftlog.contrib.schedule import all_jobs
    from raftlog.contrib.schedule.models import JobState, Run

    states = {state.name: state.last_due for state in JobState.objects.all()}
    found, now = [], timezone.now()
    for job in all_jobs():
        last = Run.objects.filter(job=job.name).order_by("-due").first()
        found.append(
            {
                "job": job.name,
                "times": str(job.times),
                "last_due": last.due if last else None,
                "last_error": last.error or None if last else None,
                "next": job.times.after(max(now, states.get(job.name, now))),
                "catch_up": job.catch_up,
            }
        )
    return found


def _runs(limit: int) -> list[dict[str, Any]]:
    from raftlog.contrib.schedule.models import Run

    fields = ("job", "due", "fired_at", "node", "task", "error")
    return list(Run.objects.order_by("-fired_at", "-index").values(*fields)[:limit]) if limit > 0 else []


VERB = ScheduleVerb
