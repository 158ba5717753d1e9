"""The queue behind Django's tasks API: `django.tasks` (Django 6), or the backport `django-tasks`.

    TASKS = {"default": {"BACKEND": "raftlog.contrib.queue.backend.RaftlogBackend", "OPTIONS": {"max_attempts": 5}}}

OPTIONS are those of @raftlog.contrib.queue.task: max_attempts, backoff, visibility, keep, transactional.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Iterable
from typing import Any, Final

from django.apps import apps
from django.core import checks
from django.utils.module_loading import import_string

from raftlog.contrib.queue import tasks
from raftlog.contrib.queue.identity import new_id
from raftlog.contrib.queue.models import QueuedTask, State


def _api(module: str = "") -> Any:
    """Django's own, or the backport where Django has none."""
    try:
        return importlib.import_module("django.tasks" + module)
    except ImportError:
        return importlib.import_module("django_tasks" + module)


api, signals, exceptions = _api(), _api(".signals"), _api(".exceptions")

OPTIONS: Final = ("max_attempts", "backoff", "visibility", "keep", "transactional")


class RaftlogBackend(_api(".backends.base").BaseTaskBackend):  # type: ignore[misc]
    """Enqueues into QueuedTask, so in the transaction of its caller; `manage.py raft worker` runs what is due."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        if unknown := sorted(set(self.options) - set(OPTIONS)):
            raise TypeError(f"TASKS[{alias!r}]['OPTIONS']: {', '.join(unknown)} is not known; use {', '.join(OPTIONS)}")

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        self.validate_task(task)
        ours = tasks.Task(
            task.func,
            name=task.module_path,
            queue=task.queue_name,
            priority=task.priority,
            run_after=task.run_after,
            **self.options,
        )
        tasks.refuse_in_command(ours.name)
        row = ours.row(*new_id(), args, kwargs, backend=self.alias)
        row.save(force_insert=True)
        result = result_of(row, task)
        signals.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Raises TaskResultDoesNotExist, also once it was pruned."""
        try:
            row = QueuedTask.objects.get(pk=uuid.UUID(str(result_id)), backend=self.alias)
        except (ValueError, QueuedTask.DoesNotExist):
            raise exceptions.TaskResultDoesNotExist(result_id) from None
        return result_of(row, import_string(row.name))

    def check(self, **kwargs: Any) -> Iterable[checks.CheckMessage]:
        if apps.is_installed("raftlog.contrib.queue"):
            return []
        hint = 'Add "raftlog.contrib.queue" to INSTALLED_APPS, and migrate.'
        message = f"TASKS[{self.alias!r}] uses raftlog's queue, which is not installed."
        return [checks.Error(message, hint=hint, id="raftlog_queue.E001")]


def result_of(row: QueuedTask, task: Any) -> Any:
    """A TaskResult as the row stands."""
    workers = [worker for worker, _, _ in row.errors]
    if row.state in (State.RUNNING, State.SUCCESSFUL):
        workers.append(row.worker)
    result = api.TaskResult(
        task=task.using(priority=row.priority, queue_name=row.queue, run_after=row.run_after, backend=row.backend),
        id=str(row.pk),
        status=api.TaskResultStatus(row.state),
        enqueued_at=row.enqueued_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        last_attempted_at=row.last_attempted_at,
        args=row.arguments["args"],
        kwargs=row.arguments["kwargs"],
        backend=row.backend,
        errors=[_api(".base").TaskError(exception_class_path=kind, traceback=text) for _, kind, text in row.errors],
        worker_ids=workers,
    )
    object.__setattr__(result, "_return_value", row.result)  # as its own backends do: the dataclass is frozen
    return result


def call(task: Any, row: QueuedTask) -> Any:
    """Run the function of a task of Django's API, in a worker."""
    result = result_of(row, task)
    signals.task_started.send(type(api.task_backends[row.backend]), task_result=result)
    context = [api.TaskContext(task_result=result)] if task.takes_context else []
    return task.call(*context, *result.args, **result.kwargs)


def tell_finished(row: QueuedTask) -> None:
    """Django's signal, on the host of the worker, once it is recorded that the task has ended."""
    result = api.task_backends[row.backend].get_result(str(row.pk))
    if result.is_finished:
        signals.task_finished.send(type(api.task_backends[row.backend]), task_result=result)
