"""The queue as a backend of Django's tasks API: `django.tasks`, or the backport django-tasks."""

import asyncio
import uuid

import pytest
from django.db import transaction

from tests.contrib.queue_node import queue_node
from tests.replication.warehouse.models import Item

try:
    from django import tasks as api
except ImportError:
    api = pytest.importorskip("django_tasks")

from raftlog.contrib.queue import run_all
from raftlog.contrib.queue.backend import exceptions, signals
from raftlog.contrib.queue.models import QueuedTask

BACKEND = "raftlog.contrib.queue.backend.RaftlogBackend"
TASKS = {
    "default": {"BACKEND": BACKEND, "QUEUES": ["default", "mail"], "OPTIONS": {"max_attempts": 2, "backoff": 0}},
    "whole": {"BACKEND": BACKEND, "OPTIONS": {"transactional": True}},
}
sent = []


def add(first, second=1):
    return first + second


async def twice(number):
    await asyncio.sleep(0)
    return 2 * number


def attempt_number(context, *, fail_first=False):
    if fail_first and context.attempt == 1:
        raise ValueError("the first one")
    return [context.attempt, context.task_result.id]


def store(name):
    Item.objects.create(name=name, stock=1)
    return name


FUNCTIONS = {function.__name__: function for function in (add, twice, attempt_number, store)}


@pytest.fixture
def node(tmp_path, django_db_blocker, settings, monkeypatch):
    settings.TASKS = TASKS
    for name in ("add", "twice"):
        monkeypatch.setitem(globals(), name, api.task(FUNCTIONS[name]))
    monkeypatch.setitem(globals(), "attempt_number", api.task(takes_context=True)(FUNCTIONS["attempt_number"]))
    monkeypatch.setitem(globals(), "store", api.task(backend="whole")(FUNCTIONS["store"]))
    sent.clear()
    with django_db_blocker.unblock(), queue_node(tmp_path) as made:
        yield made


def test_results_come_back(node):
    result = add.using(queue_name="mail", priority=7).enqueue(2, second=3)
    assert (result.status, result.is_finished, result.attempts) == (api.TaskResultStatus.READY, False, 0)
    row = QueuedTask.objects.get(pk=result.id)
    assert (row.queue, row.priority, row.max_attempts, row.backend) == ("mail", 7, 2, "default")
    assert run_all().completed == 1
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == (api.TaskResultStatus.SUCCESSFUL, 5, 1)
    assert result.enqueued_at < result.started_at <= result.finished_at
    assert add.get_result(result.id).return_value == 5
    with pytest.raises(exceptions.TaskResultMismatch):
        twice.get_result(result.id)
    for unknown in (str(uuid.uuid4()), "nonsense"):
        with pytest.raises(exceptions.TaskResultDoesNotExist):
            add.get_result(unknown)


def test_coroutines_contexts_failures_and_signals(node):
    def receiver(signal, sender, task_result, **kwargs):
        sent.append((names[signal], task_result.task.name, str(task_result.status)))

    names = {getattr(signals, name): name for name in ("task_enqueued", "task_started", "task_finished")}
    for signal in names:
        signal.connect(receiver)
    try:
        results = [twice.enqueue(4), attempt_number.enqueue(fail_first=True)]
        failing = add.enqueue(1, None)
        run_all()
    finally:
        for signal in names:
            signal.disconnect(receiver)
    for result in (*results, failing):
        result.refresh()
    assert results[0].return_value == 8
    assert results[1].return_value == [2, results[1].id]
    assert results[1].errors[0].exception_class is ValueError
    assert (failing.status, failing.attempts) == (api.TaskResultStatus.FAILED, 2)
    assert "TypeError" in failing.errors[-1].traceback
    assert [each for each in sent if each[1] == "attempt_number"] == [
        ("task_enqueued", "attempt_number", "READY"),
        ("task_started", "attempt_number", "RUNNING"),
        ("task_started", "attempt_number", "RUNNING"),
        ("task_finished", "attempt_number", "SUCCESSFUL"),
    ]
    assert ("task_finished", "add", "FAILED") in sent


def test_enqueueing_joins_the_transaction_and_so_does_the_completion_where_it_is_asked_for(node):
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 (one block)
        store.enqueue("never")
        1 / 0  # noqa: B018
    assert not QueuedTask.objects.exists()
    result = store.enqueue("bolt")
    assert QueuedTask.objects.get().transactional
    assert run_all().completed == 1
    result.refresh()
    assert (result.return_value, Item.objects.count()) == ("bolt", 1)


def test_what_it_cannot_do_is_said(node, settings):
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"tries": 3}}}
    with pytest.raises(TypeError, match="tries is not known; use max_attempts"):
        api.task_backends["default"].check()
