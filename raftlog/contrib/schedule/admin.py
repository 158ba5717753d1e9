"""Jobs and their runs in Django's admin, to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from raftlog.contrib.schedule.models import JobState, Run


class _ReadOnly(admin.ModelAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(JobState)
class JobStateAdmin(_ReadOnly):
    list_display = ("name", "last_due")


@admin.register(Run)
class RunAdmin(_ReadOnly):
    list_display = ("job", "due", "fired_at", "node", "task", "error")
    list_filter = ("job",)
