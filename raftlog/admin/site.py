"""The ModelAdmin that holds the pages together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.contrib import admin
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path

from raftlog.admin import cluster, consistency, elections, log, members, sessions
from raftlog.admin.pages import Page, context_of, refuse_unless

PAGES: Final = [cluster.PAGE, members.PAGE, log.PAGE, elections.PAGE, sessions.PAGE, consistency.PAGE]


def outside_transactions(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Else, under ATOMIC_REQUESTS, a row of the history is not there before the change, and goes with a failure."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


class ClusterAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Pages instead of a list of rows."""

    def get_urls(self) -> list[URLPattern]:
        views = [(page, "" if page is cluster.PAGE else f"{page.name}/") for page in PAGES]
        patterns = [
            path(route, outside_transactions(self.admin_site.admin_view(partial(self.show, page))), name=name)
            for page, route in views
            for name in [f"raftlog_cluster_{page.name}"]
        ]
        # The name under which the admin's index links to a model.
        return [*patterns, path("", patterns[0].callback, name="raftlog_cluster_changelist")]

    def show(self, page: Page, request: HttpRequest) -> HttpResponseBase:
        refuse_unless(request, "view_cluster")
        if page.permission:
            refuse_unless(request, page.permission)
        request.current_app = self.admin_site.name
        return page.view(request, context_of(request, self.admin_site, page, PAGES))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
