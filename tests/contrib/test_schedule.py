"""Jobs: fired once for each due time, whoever proposes it; what was missed; what is declared wrongly."""

import datetime
import io
import json
import threading

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection

from raftlog import CommandFailed, command
from raftlog.contrib.queue import QueuedTask, run_all, task
from raftlog.contrib.schedule import CronError, commands, jobs, scheduled, ticker
from raftlog.contrib.schedule.models import JobState, Run
from raftlog.node_services import NodeServices, node_service
from raftlog.runtime import clock
from tests.contrib.queue_node import queue_node
from tests.replication.warehouse.models import Item

UTC = datetime.UTC
NOW = datetime.datetime(2026, 11, 2, 12, 0, 30, tzinfo=UTC)
MINUTE = datetime.timedelta(minutes=1)
done = []


def note():
    done.append("note")


@command(name="tests_schedule.count")
def count(ctx):
    item, _ = Item.objects.get_or_create(name="runs")
    item.stock += 1
    item.save()
    return item.stock


@command(name="tests_schedule.fails")
def fails(ctx):
    raise ValueError("on every node alike")


@pytest.fixture
def node(tmp_path, django_db_blocker):
    """Log time stands still, at NOW, until a test moves it."""
    done.clear()
    with django_db_blocker.unblock(), queue_node(tmp_path, JobState, Run) as made:
        set_time(made, NOW)
        yield made


@pytest.fixture
def declare():
    names = []

    def declared(function, *args, **options):
        target = scheduled(*args, **options)(function)
        names.append(options.get("name") or target.name)
        return target

    yield declared
    for name in names:
        jobs.forget(name)


def set_time(node, moment):
    node.ahead = moment.timestamp() - clock.wall_microseconds() / 1e6


def tick(node, moment, node_id="a"):
    set_time(node, moment)
    return ticker.tick(node_id, moment, lambda: True)


def dues():
    return list(Run.objects.order_by("due").values_list("due", flat=True))


def test_a_job_counts_from_when_it_is_first_seen_and_enqueues_a_task_at_each_due_time(node, declare):
    target = declare(note, "* * * * *", max_attempts=7)
    assert tick(node, NOW) <= 0.5
    assert dues() == []
    assert tick(node, NOW.replace(second=59, microsecond=900_000)) == pytest.approx(0.1, abs=0.01)
    tick(node, NOW + MINUTE)
    tick(node, NOW + MINUTE)
    tick(node, NOW + 2 * MINUTE)
    assert dues() == [NOW.replace(second=0) + n * MINUTE for n in (1, 2)]
    rows = list(QueuedTask.objects.order_by("id"))
    assert [row.pk.hex for row in rows] == list(Run.objects.order_by("due").values_list("task", flat=True))
    assert {(row.name, row.max_attempts, row.run_after <= NOW + 3 * MINUTE) for row in rows} == {(target.name, 7, True)}
    QueuedTask.objects.update(run_after=NOW)
    assert run_all().completed == 2
    assert done == ["note", "note"]


def test_of_all_that_propose_a_due_time_one_gets_through(node, declare):
    declare(count, every=60)
    tick(node, NOW)
    at = JobState.objects.get().last_due
    call = next(jobs.all_jobs()).call()

    def fire(after, due, node_id="b"):
        return commands.fire.propose(job="tests_schedule.count", after=after, due=due, node=node_id, call=call)

    first, second = NOW.replace(second=0) + MINUTE, NOW.replace(second=0) + 2 * MINUTE
    set_time(node, second)
    assert [fire(at, first), fire(at, first, "a"), fire(at, second)] == [True, False, False]
    assert [fire(first, first), fire(first, at), fire(second, second)] == [False] * 3
    assert [fire(first, second), fire(first, second)] == [True, False]
    assert not fire(second, second + MINUTE)  # not yet, by log time
    assert commands.fire.propose(job="gone", after=at, due=first, node="a", call=call) is False
    assert dues() == [first, second]
    assert Item.objects.get(name="runs").stock == 2


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("all", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), ("one", [10]), ("none", [10])]
)
def test_what_was_missed(node, declare, catch_up, expected):
    declare(count, "* * * * *", catch_up=catch_up)
    tick(node, NOW)
    tick(node, NOW + 10 * MINUTE)
    tick(node, NOW + 10 * MINUTE, "b")
    assert dues() == [NOW.replace(second=0) + n * MINUTE for n in expected]


def test_none_leaves_out_what_is_over_and_grace_says_when(node, declare):
    declare(count, "@hourly", catch_up="none", grace=120)
    tick(node, NOW)
    tick(node, NOW + 63 * MINUTE)
    assert dues() == []
    tick(node, NOW + 121 * MINUTE)
    assert dues() == [NOW.replace(hour=14, minute=0, second=0)]


def test_a_command_that_fails_has_had_its_run(node, declare):
    declare(fails, every=60)
    tick(node, NOW)
    tick(node, NOW + MINUTE)
    tick(node, NOW + 2 * MINUTE)
    assert [run.error for run in Run.objects.all()] == ["CommandFailed: ValueError: on every node alike"] * 2


def fire(node, job, call):
    last_due = JobState.objects.get(name=job).last_due
    set_time(node, NOW + MINUTE)
    return commands.fire.with_options(timeout=5).propose(job=job, after=last_due, due=NOW + MINUTE, node="a", call=call)


def test_a_command_in_the_log_is_run_though_it_is_not_scheduled_any_more(node, declare):
    declare(count, "@hourly")
    tick(node, NOW)
    call = next(jobs.all_jobs()).call()
    jobs.forget(count.name)
    assert fire(node, count.name, call)
    assert Item.objects.get(name="runs").stock == 1


def test_without_the_queues_table_nothing_is_fired_and_nodes_go_on(node, declare):
    declare(note, "* * * * *", name="early")
    tick(node, NOW)
    with connection.schema_editor() as editor:
        editor.delete_model(QueuedTask)
    with pytest.raises(DatabaseError):
        tick(node, NOW + MINUTE)
    with pytest.raises(CommandFailed, match="no table for the queue"):
        fire(node, "early", next(jobs.all_jobs()).call())
    commands.see.propose(jobs=["another"])
    assert not Run.objects.exists()


def test_only_the_newest_runs_are_kept(node, declare, monkeypatch):
    monkeypatch.setattr(commands, "KEPT_RUNS", 3)
    declare(count, every=1, catch_up="all")
    tick(node, NOW)
    tick(node, NOW + 10 * datetime.timedelta(seconds=1))
    assert (len(dues()), Item.objects.get(name="runs").stock) == (3, 10)


def test_what_is_declared_wrongly_is_said(declare):
    for options, kind, words in (
        ({}, TypeError, "a cron expression or every"),
        ({"cron": "* * * * *", "every": 3}, TypeError, "not both"),
        ({"cron": "61 * * * *"}, CronError, "the minute is 61"),
        ({"every": 60, "catch_up": "some"}, ValueError, "catch_up is 'some'; use 'one', 'all', 'none'"),
        ({"every": 60, "grace": -1}, ValueError, "grace is -1"),
        ({"every": 60, "priority": 1000}, ValueError, "priority is 1000"),
        ({"every": 60, "name": "x" * 201}, ValueError, "has 201 characters"),
    ):
        with pytest.raises(kind, match=words):
            declare(note, **options)
    with pytest.raises(TypeError, match="queue: options of a task belong to its @task"):
        declare(task(note), every=60, queue="mail")
    declare(note, every=60, name="twice")
    with pytest.raises(TypeError, match="declared twice"):
        declare(count, every=60, name="twice")


def test_the_queue_must_be_installed(monkeypatch):
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "raftlog.contrib.queue")
    with pytest.raises(ImproperlyConfigured, match="in INSTALLED_APPS, too"):
        apps.get_app_config("raftlog_schedule").ready()


def test_jobs_on_the_command_line(node, declare):
    declare(count, "* * * * *")
    declare(note, "30 2 * * *", timezone="Europe/Berlin", name="nightly")
    tick(node, NOW)
    tick(node, NOW + MINUTE)
    output = io.StringIO()
    call_command("raft", "schedule", "--runs", "5", "--json", stdout=output)
    shown = json.loads(output.getvalue())
    assert [(row["job"], row["times"]) for row in shown["jobs"]] == [
        ("nightly", "30 2 * * * (Europe/Berlin)"),
        ("tests_schedule.count", "* * * * *"),
    ]
    assert [run["due"] for run in shown["runs"]] == ["2026-11-02 12:01:00+00:00"]
    output = io.StringIO()
    call_command("raft", "schedule", stdout=output)
    assert "nightly" in output.getvalue()


def test_services_of_the_node_run_until_it_stops_and_are_started_again_when_they_fail(monkeypatch):
    from raftlog import node_services

    monkeypatch.setattr(node_services, "_registered", {})
    monkeypatch.setattr(node_services, "RESTART_PAUSE", 0.01)
    began, leads = threading.Semaphore(0), []

    @node_service
    def service(node):
        leads.append((node.node_id, node.is_leader()))
        began.release()
        if len(leads) < 3:
            raise ValueError("as told")
        node.stopping.wait(10)

    services = NodeServices("a", lambda: True)
    services.start()
    for _ in range(3):
        assert began.acquire(timeout=10)
    services.ask_to_stop()
    assert services.join() == []
    assert leads == [("a", True)] * 3
