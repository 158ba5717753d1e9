"""The app of counters."""

from __future__ import annotations

from django.apps import AppConfig


class CountersConfig(AppConfig):
    name = "raftlog.contrib.counters"
    label = "raftlog_counters"
    verbose_name = "Counters"
    default_auto_field = "django.db.models.BigAutoField"
