"""The Django app of scheduled jobs. Having it installed makes each node run the ticker, which acts while it leads."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

import raftlog


class ScheduleConfig(AppConfig):
    name = "raftlog.contrib.schedule"
    label = "raftlog_schedule"
    verbose_name = "Raft: scheduled jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        if not apps.is_installed("raftlog.contrib.queue"):
            raise ImproperlyConfigured('raftlog.contrib.schedule needs "raftlog.contrib.queue" in INSTALLED_APPS, too')
        from raftlog.contrib.schedule import ticker

        autodiscover_modules("tasks")
        autodiscover_modules("schedule")
        raftlog.node_service(ticker.run)
