"""Scheduled jobs over an hour of virtual time, with elections every few seconds: each due time once, none left out.

The ticker, the commands and the tables are the real ones; the cluster around them is simulated (_schedule_world.py),
in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raftlog.runtime import clock
from raftlog.testing.trials import Tell, Trial
from raftlog.testing.trials._schedule_world import START, World

MUTATIONS = ("fire-without-uniqueness",)
# name -> (options of @scheduled, whether no due time may be left out)
JOBS: dict[str, tuple[dict[str, Any], bool]] = {
    "every-5": ({"every": 5, "catch_up": "all"}, True),
    "minutely": ({"cron": "* * * * *", "catch_up": "all", "timezone": "Europe/Berlin"}, True),
    "patient": ({"every": 20, "catch_up": "one", "grace": 7_200}, True),
    "one": ({"every": 7, "catch_up": "one", "grace": 1}, False),
    "none": ({"cron": "* * * * *", "catch_up": "none", "grace": 5}, False),
    "command": ({"every": 30, "catch_up": "all"}, True),
}
SETTLE = 300.0  # seconds after the hour, in which a leader comes to what is due


class Schedule(Trial):
    name = "schedule"
    help = "scheduled jobs over virtual time with elections: each due time once, none left out"
    settings_module = "raftlog.testing.trials._queue_site.settings"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--minutes", type=float, default=60.0, help="of virtual time (default: 60)")
        parser.add_argument("--mutation", choices=MUTATIONS, help="a planted bug, which must be found")

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        from raftlog.contrib.queue.models import QueuedTask
        from raftlog.contrib.schedule import ticker
        from raftlog.contrib.schedule.models import JobState, Run

        began = clock.monotonic()
        world = World(rng, [QueuedTask, JobState, Run], options["nodes"], ticker.tick)
        length = options["minutes"] * 60
        with _jobs(), _proposals_to(world), _planted(options["mutation"]), world.databases():
            world.start()
            world.run(lambda: world.now >= length)
            hour_ends = world.moment()
            world.run(lambda: world.now >= length + SETTLE)
            world.settle()
            fired, problems = _judge(world, hour_ends)
            tasks = world.rows(world.nodes[0], QueuedTask)
            for model in (QueuedTask, JobState, Run):
                if len({repr(world.rows(node, model)) for node in world.nodes}) > 1:
                    problems.append(f"{model.__name__} differs between nodes")
        runs_of_tasks = sum(count for name, count in fired.items() if name != "command")
        if len(tasks) != runs_of_tasks:
            problems.append(f"{len(tasks)} tasks are enqueued, for {runs_of_tasks} runs")
        return {
            "virtual_seconds": length,
            "took": round(clock.monotonic() - began, 1),
            "elections": world.elections,
            "proposals": world.proposals,
            "copies_sent": world.copies,
            "entries": len(world.results),
            "runs": dict(fired),
            "problems": (world.problems + problems)[:20],
        }


def _judge(world: World, hour_ends: datetime.datetime) -> tuple[Counter[str], list[str]]:
    """(runs of each job, what does not hold)."""
    from raftlog.contrib.schedule import all_jobs

    found: dict[str, Counter[datetime.datetime]] = {name: Counter() for name in JOBS}
    problems = []
    for number, (command, arguments, result) in enumerate(world.entries(), 1):
        if result is True:
            found[arguments["job"]][arguments["due"]] += 1
        elif result is not False and not command.name.endswith(".see"):
            problems.append(f"entry {number}, {arguments['job']} at {arguments['due']}: {result}")
    for job in all_jobs():
        twice = sorted(due for due, count in found[job.name].items() if count > 1)
        if twice:
            problems.append(f"{job.name}: {len(twice)} due times were run more than once, of {twice[0]}")
        missing = _missing(job, found[job.name], hour_ends) if JOBS[job.name][1] else []
        if missing or not found[job.name]:
            problems.append(f"{job.name}: {len(missing)} due times were left out, of {missing[:1]}")
    return Counter({name: counts.total() for name, counts in found.items()}), problems


def _missing(job: Any, found: Counter[datetime.datetime], end: datetime.datetime) -> list[datetime.datetime]:
    """Due times from the first one that was run, or the beginning, up to the end that were not."""
    missing = []
    due = min(found, default=job.times.after(START))
    while due <= end:
        if due not in found:
            missing.append(due)
        due = job.times.after(due)
    return missing


def _note() -> None:
    """What the jobs' tasks would do."""


def _run_command(ctx: Any) -> None:
    """What the job that is a command does, on every node."""


@contextlib.contextmanager
def _jobs() -> Iterator[None]:
    """Those of JOBS, and no others."""
    from raftlog.contrib.schedule import jobs, scheduled
    from raftlog.replication.registry import Command

    before = dict(jobs._jobs)
    jobs._jobs.clear()
    try:
        for name, (options, _) in JOBS.items():
            target = Command(_run_command, name="trial.command") if name == "command" else _note
            scheduled(options.get("cron", ""), **{k: v for k, v in options.items() if k != "cron"}, name=name)(target)
        yield
    finally:
        jobs._jobs.clear()
        jobs._jobs.update(before)


@contextlib.contextmanager
def _proposals_to(world: World) -> Iterator[None]:
    """What the ticker proposes goes to the simulated log."""
    from raftlog.contrib.schedule import commands

    ticker: Any = importlib.import_module("raftlog.contrib.schedule.ticker")

    class Proposed:
        def __init__(self, command: Any) -> None:
            self.propose = lambda **arguments: world.propose(command, arguments)

    class Commands:
        see, fire = Proposed(commands.see), Proposed(commands.fire)

    ticker.commands = Commands
    try:
        yield
    finally:
        ticker.commands = commands


@contextlib.contextmanager
def _planted(mutation: str | None) -> Iterator[None]:
    from raftlog.contrib.schedule import commands
    from raftlog.contrib.schedule.models import JobState, Run

    may_fire, constraints = commands.may_fire, Run._meta.constraints
    if mutation == "fire-without-uniqueness":
        commands.may_fire = lambda job, after, due: JobState.objects.filter(pk=job).exists()
        Run._meta.constraints = []
    try:
        yield
    finally:
        commands.may_fire, Run._meta.constraints = may_fire, constraints


TRIAL = Schedule
