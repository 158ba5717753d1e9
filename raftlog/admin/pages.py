"""What all pages share: who may see them, the tabs, and how the nodes are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse

from raftlog.asking import fetch_status
from raftlog.conf import Settings, load_settings
from raftlog.observing.live import LIVE_PATH
from raftlog.observing.view import collect, health

TIMEOUT: Final = 1.0  # seconds for each node's answer


class Page(NamedTuple):
    """One tab. `permission`: needed besides that of seeing the cluster; `live`: its fragment follows the cluster."""

    name: str
    title: str
    view: Callable[[HttpRequest, dict[str, Any]], HttpResponseBase]
    permission: str = ""
    live: bool = False


def may(request: HttpRequest, permission: str) -> bool:
    return bool(getattr(request.user, "has_perm", lambda name: False)(f"raftlog.{permission}"))


def refuse_unless(request: HttpRequest, permission: str) -> None:
    """Raises PermissionDenied."""
    if not may(request, permission):
        raise PermissionDenied(f"this needs the permission raftlog.{permission}")


def context_of(request: HttpRequest, site: AdminSite, page: Page, tabs: list[Page]) -> dict[str, Any]:
    return {
        **site.each_context(request),
        "title": page.title,
        "page": page,
        "tabs": [
            (tab, f"admin:raftlog_cluster_{tab.name}")
            for tab in tabs
            if not tab.permission or may(request, tab.permission)
        ],
        "live_path": LIVE_PATH if page.live else "",
    }


def render(request: HttpRequest, template: str, context: dict[str, Any], status: int = 200) -> TemplateResponse:
    return TemplateResponse(request, f"admin/raftlog/cluster/{template}.html", context, status=status)


def report_of_cluster(settings: Settings | None = None) -> dict[str, Any]:
    """What `raft status` shows, with the sentence on how much more may fail."""
    settings = settings or load_settings()
    report = collect(settings, lambda target: fetch_status(settings, target, timeout=TIMEOUT))
    report["here"] = settings.node_id
    report["health"] = health(report)
    return report
