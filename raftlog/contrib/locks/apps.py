"""The Django app of locks: its tables come with `migrate`, through the log."""

from __future__ import annotations

from django.apps import AppConfig


class LocksConfig(AppConfig):
    name = "raftlog.contrib.locks"
    label = "raftlog_locks"
    verbose_name = "Raft: locks"
    default_auto_field = "django.db.models.BigAutoField"
