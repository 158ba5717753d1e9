"""The queue in Django's admin: to look at, and to try dead letters again."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from raftlog.contrib.queue.models import QueuedTask
from raftlog.contrib.queue.reports import retry


@admin.register(QueuedTask)
class QueuedTaskAdmin(admin.ModelAdmin):
    list_display = (
        "name",
        "queue",
        "priority",
        "state",
        "attempts",
        "run_after",
        "started_at",
        "finished_at",
        "worker",
    )
    list_filter = ("state", "queue")
    search_fields = ("name", "id")
    ordering = ("-enqueued_at",)
    actions = ("try_again",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("raftlog_queue.change_queuedtask"))  # type: ignore[union-attr]

    @admin.action(description="Try failed tasks again", permissions=["retry"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[QueuedTask]) -> None:
        count = retry(queryset)
        self.message_user(request, f"{count} will be tried again.", messages.SUCCESS if count else messages.WARNING)
