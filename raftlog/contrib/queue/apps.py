"""The Django app of the task queue: its table comes with `migrate`, through the log."""

from __future__ import annotations

from django.apps import AppConfig


class QueueConfig(AppConfig):
    name = "raftlog.contrib.queue"
    label = "raftlog_queue"
    verbose_name = "Raft: task queue"
    default_auto_field = "django.db.models.BigAutoField"
