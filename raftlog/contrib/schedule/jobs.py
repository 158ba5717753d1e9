"""`@scheduled`: jobs, by name, with their times and what to do about those that were missed."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any, Final

import raftlog
from raftlog.contrib.queue import Task, task
from raftlog.contrib.schedule.models import NAME_LENGTH
from raftlog.contrib.schedule.times import Cron, Every, Times

CATCH_UP: Final = ("one", "all", "none")
DEFAULT_GRACE: Final = 60.0  # seconds


class Job:
    """What is to be done when. Immutable."""

    def __init__(self, target: Any, times: Times, *, name: str, catch_up: str, grace: float) -> None:
        self.name = name or target.name
        if not 0 < len(self.name) <= NAME_LENGTH:
            raise ValueError(f"the job's name {self.name!r} has {len(self.name)} characters; use 1 to {NAME_LENGTH}")
        if catch_up not in CATCH_UP:
            raise ValueError(f"job {self.name}: catch_up is {catch_up!r}; use {', '.join(map(repr, CATCH_UP))}")
        if not isinstance(grace, (int, float)) or not 0 <= grace <= 366 * 86_400:
            raise ValueError(f"job {self.name}: grace is {grace!r}; give 0 to {366 * 86_400} seconds")
        # A Task, or a command.
        self.target = target
        self.is_command = not isinstance(target, Task)
        self.times = times
        self.catch_up = catch_up
        self.grace = datetime.timedelta(seconds=grace)

    def __repr__(self) -> str:
        return f"<Job {self.name}: {self.times}>"

    def call(self) -> dict[str, Any]:
        """What an entry says of what is to be done: all of it, so that it does not depend on each node's code."""
        if self.is_command:
            return {"command": self.target.name, "version": self.target.version}
        return {"task": self.target.describe()}

    def next_due(self, last_due: datetime.datetime, now: datetime.datetime) -> datetime.datetime | None:
        """The due time to fire now, None if there is none, for a job that stands at `last_due`.

        A due time that is over by more than `grace` has been missed.
        """
        first = self.times.after(last_due)
        if first > now:
            return None
        if self.catch_up == "all":
            return first
        if now - first <= self.grace:
            return first  # in time: nothing was missed
        newest = self.times.last(now)
        if self.catch_up == "one":
            return newest
        in_time = max(first, self.times.after(now - self.grace - datetime.timedelta(microseconds=1)))
        return in_time if in_time <= now else None


_jobs: dict[str, Job] = {}


def all_jobs() -> Iterator[Job]:
    """All that this process's code has, by name."""
    for name in sorted(_jobs):
        yield _jobs[name]


def find_command(name: str, version: int) -> Any:
    """The command of a job, for an entry that names it. It need not be scheduled any more.

    Raises ImportError, which makes this node stand still before the entry: its code is not that of the leader.
    """
    for job in _jobs.values():
        if job.is_command and (job.target.name, job.target.version) == (name, version):
            return job.target
    found = raftlog.find_command(name, version)
    if found is None:
        raise ImportError(
            f"this node's code has no command {name!r} version {version}, which a job is; install the code that has it"
        )
    return found


def forget(name: str) -> None:
    """For tests."""
    _jobs.pop(name, None)


def scheduled(
    cron: str = "",
    *,
    every: float | datetime.timedelta | None = None,
    timezone: str = "UTC",
    catch_up: str = "one",
    grace: float = DEFAULT_GRACE,
    name: str = "",
    **options: Any,
) -> Callable[[Any], Any]:
    """Run a function at set times, once each in the whole cluster: `@scheduled("*/5 * * * *")`, `@scheduled(every=60)`.

    Above a plain function or a @task: a queue task is enqueued at each due time, and run by a worker. Above a
    @command: it runs on every node, in the entry itself. Either is called without arguments.

    Args:
        cron: minute hour day month weekday, or @hourly and the like, by the wall clock of `timezone`.
        every: seconds, counted from 1970 in UTC, in place of `cron`.
        catch_up: what to do once there is a leader again after due times were missed: "one" run for all of them,
            "all" of them one by one, or "none".
        grace: seconds for which a due time counts as in time, and is fired whatever `catch_up` says.
        name: of the job; by default that of the task or command. It must stay the same for the job to go on.
        options: of the task that a plain function becomes.

    Raises CronError, ValueError, TypeError.
    """
    if bool(cron) == (every is not None):
        raise TypeError("@scheduled wants a cron expression or every=…, and not both")
    times: Times = Cron(cron, timezone) if cron else Every(every)  # type: ignore[arg-type]

    def declare(function: Any) -> Any:
        is_command = hasattr(function, "propose")
        if options and (is_command or isinstance(function, Task)):
            raise TypeError(f"@scheduled: {', '.join(sorted(options))}: options of a task belong to its @task")
        target = function if is_command or isinstance(function, Task) else task(**options)(function)
        job = Job(target, times, name=name, catch_up=catch_up, grace=grace)
        other = _jobs.get(job.name)
        if other is not None and _place(other.target) != _place(target):
            raise TypeError(f"the job {job.name!r} is declared twice, by {other.target!r} and {target!r}")
        _jobs[job.name] = job
        return target

    return declare


def _place(target: Any) -> tuple[str, str]:
    return target.__module__, target.__qualname__
