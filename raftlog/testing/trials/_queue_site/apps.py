"""The trial's app. Its tables are made by `migrate --run-syncdb`; RAFTLOG_TRIAL_MUTATION names a planted bug."""

from __future__ import annotations

import importlib
import os
from typing import Any

from django.apps import AppConfig


class QueueSiteConfig(AppConfig):
    name = "raftlog.testing.trials._queue_site"
    label = "trial"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from raftlog.contrib.queue.signals import task_finished

        task_finished.connect(note_completion)
        if mutation := os.environ.get("RAFTLOG_TRIAL_MUTATION"):
            MUTATIONS[mutation]()


def note_completion(sender: Any, task: Any, **kwargs: Any) -> None:
    """In the entry or transaction that finishes the task: a row for each time that one is finished."""
    from raftlog.testing.trials._queue_site.models import Completion

    Completion.objects.create(task=task.pk.hex, number=task.arguments["kwargs"]["number"], token=task.claim)


def complete_without_token() -> None:
    """Whoever completes a task is believed, whether or not the claim is its own."""
    for name in ("commands", "running"):
        module: Any = importlib.import_module(f"raftlog.contrib.queue.{name}")
        module.holds = lambda task, token: True


def complete_after_the_transaction() -> None:
    """A transactional task is completed by a command of its own, after its writes have been committed."""
    running: Any = importlib.import_module("raftlog.contrib.queue.running")

    def run(attempt: Any) -> Any:
        found = running.get_task(attempt.row.name, attempt.row.backend)
        return running.encode_result(attempt.row.name, attempt._call(found))

    running.Attempt._run = run


MUTATIONS = {
    "completion-without-token": complete_without_token,
    "completion-after-the-transaction": complete_after_the_transaction,
}
