"""The task queue while workers on all nodes and the leader are killed: each task completed once, nothing lost.

Every tenth task is transactional, and writes a row. A row is also written for each completion, in the entry that makes
it. At the end there is one of each, on every node, and all nodes hold the same.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from raftlog.runtime import clock
from raftlog.testing.processes import NodeProcess, ProcessCluster
from raftlog.testing.trials import Tell, Trial
from raftlog.testing.trials._queue_workers import Workers
from raftlog.testing.trials.chaos import kill_leaders

SETTINGS = "raftlog.testing.trials._queue_site.settings"
ENQUEUE = "raftlog.testing.trials._queue_site.enqueue"
MUTATIONS = ("completion-without-token", "completion-after-the-transaction")
CHUNK = 50  # tasks of one transaction
TRANSACTIONAL = 10  # every so many-th task
VISIBILITY = 3.0  # seconds
PAUSE = 5.0  # seconds for which a worker is paused: longer than its claims hold
TABLES = ("raftlog_queue_queuedtask", "trial_completion", "trial_effect")


class Queue(Trial):
    name = "queue"
    help = "tasks, with workers and the leader killed: each completed once, effects of transactional ones once"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tasks", type=int, default=10_000, help="(default: 10,000)")
        parser.add_argument("--workers", type=int, default=6, help="(default: 6)")
        parser.add_argument("--threads", type=int, default=2, help="of each worker (default: 2)")
        parser.add_argument("--kill-leader", type=float, default=4.0, metavar="S", help="every S seconds (default: 4)")
        parser.add_argument("--kill-worker", type=float, default=1.0, metavar="S", help="every S seconds (default: 1)")
        parser.add_argument("--longest", type=float, default=900.0, help="seconds until it is given up (default: 900)")
        parser.add_argument("--mutation", choices=MUTATIONS, help="a planted bug, which must be found")

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        environment = {"RAFTLOG_TRIAL_VISIBILITY": str(VISIBILITY)}
        if options["mutation"]:
            environment["RAFTLOG_TRIAL_MUTATION"] = options["mutation"]
        with ProcessCluster(options["nodes"], directory, settings_module=SETTINGS, environment=environment) as cluster:
            cluster.start()
            cluster.wait_for_leader(60)
            next(iter(cluster)).manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks", timeout=120)
            workers = Workers(cluster, options["workers"], options["threads"], directory)
            try:
                return _run(options, cluster, workers, rng, tell)
            finally:
                workers.kill()


def _run(
    options: dict[str, Any], cluster: ProcessCluster, workers: Workers, rng: random.Random, tell: Tell
) -> dict[str, Any]:
    over = threading.Event()
    began = clock.monotonic()
    node = next(iter(cluster))
    enqueuer = subprocess.Popen(
        [sys.executable, "-m", ENQUEUE, *map(str, (options["tasks"], CHUNK, TRANSACTIONAL))],
        env=node.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    watcher = threading.Thread(target=_watch, args=(cluster, enqueuer, options, over, tell), name="trial-watch")
    troublemaker = threading.Thread(
        target=workers.trouble,
        args=(random.Random(rng.random()), over.is_set),
        kwargs={"every": options["kill_worker"], "pause": PAUSE, "tell": tell},
        name="trial-workers",
    )
    watcher.start()
    troublemaker.start()
    kills = kill_leaders(cluster, rng, over.is_set, every=options["kill_leader"], tell=tell)
    took = clock.monotonic() - began
    troublemaker.join()
    watcher.join()
    enqueuer.kill()
    enqueued = enqueuer.communicate()[0].strip()
    cluster.wait_all_applied(120)
    report, found = judge(list(cluster), options["tasks"])
    return {
        "tasks": options["tasks"],
        "seconds": round(took, 1),
        "per_second": round(report["completions"] / took, 1),
        "enqueued_in": float(enqueued or 0),
        "leaders_killed": kills,
        "workers_killed": workers.kills,
        "workers_paused": workers.pauses,
        **report,
        "problems": workers.problems + found,
    }


def _watch(
    cluster: ProcessCluster,
    enqueuer: subprocess.Popen[str],
    options: dict[str, Any],
    over: threading.Event,
    tell: Tell,
) -> None:
    """Set `over` once all tasks are completed, or nothing more is to be expected."""
    deadline = clock.monotonic() + options["longest"]
    told, done = 0.0, 0
    try:
        while done < options["tasks"] and clock.monotonic() < deadline:
            if enqueuer.poll() not in (None, 0):
                tell(f"the process that enqueues ended with {enqueuer.returncode}")
                return
            clock.sleep(0.2)
            done = max(done, *(_count(node) for node in cluster))
            if clock.monotonic() - told > 5:
                told = clock.monotonic()
                tell(f"{done} of {options['tasks']} tasks completed")
    finally:
        over.set()


def _count(node: NodeProcess) -> int:
    sql = "SELECT count(*) FROM raftlog_queue_queuedtask WHERE state IN ('SUCCESSFUL', 'FAILED')"
    try:
        return int(rows(node, sql)[0][0])
    except sqlite3.OperationalError:  # it is being started, or busy
        return 0


def rows(node: NodeProcess, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{node.database}?mode=ro", uri=True, timeout=10)) as raw:
        return raw.execute(sql).fetchall()


def judge(nodes: list[NodeProcess], count: int) -> tuple[dict[str, Any], list[str]]:
    """(what is there, what does not hold)."""
    problems = []
    node = nodes[0]
    tasks = [
        (state, int(number), attempts)
        for state, number, attempts in rows(
            node, "SELECT state, json_extract(arguments, '$.kwargs.number'), attempts FROM raftlog_queue_queuedtask"
        )
    ]
    completions = Counter(number for (number,) in rows(node, "SELECT number FROM trial_completion"))
    effects = Counter(number for (number,) in rows(node, "SELECT number FROM trial_effect"))
    expected = Counter(range(count))
    found = Counter(number for _, number, _ in tasks)
    states = Counter(state for state, _, _ in tasks)
    for what, counted, wanted in (
        ("tasks enqueued", found, expected),
        ("completions", completions, expected),
        ("effects of transactional tasks", effects, Counter(range(0, count, TRANSACTIONAL))),
    ):
        for sign, difference in (("missing", wanted - counted), ("too many", counted - wanted)):
            if difference:
                some = ", ".join(map(str, sorted(difference)[:5]))
                problems.append(f"{what}: {difference.total()} {sign}, of {some}")
    if states != Counter({"SUCCESSFUL": count}):
        problems.append(f"states of the tasks: {dict(states)}")
    for table in TABLES:
        contents = [rows(each, f"SELECT * FROM {table} ORDER BY 1") for each in nodes]
        if any(each != contents[0] for each in contents):
            problems.append(f"{table} differs between nodes")
    attempts = Counter(attempts for _, _, attempts in tasks)
    return {
        "completions": completions.total(),
        "effects": effects.total(),
        "attempts": {str(number): attempts[number] for number in sorted(attempts)},
    }, problems


TRIAL = Queue
