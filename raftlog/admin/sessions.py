"""The page "Sessions and locks": which processes propose; where that battery is installed, who holds which lock."""

from __future__ import annotations

import datetime
from typing import Any, Final

from django.apps import apps
from django.db import connections
from django.db.models import Count
from django.http import HttpRequest, HttpResponseBase

from raftlog.admin.pages import Page, render
from raftlog.conf import load_settings
from raftlog.replication.sessions import SESSION_TTL
from raftlog.replication.tables import AppliedIndex, ClientSession, SessionResult, has_tables

SHOWN: Final = 100
LOCKS: Final = "raftlog_locks"  # label of the battery


def view(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    alias = load_settings().database
    known = has_tables(connections[alias])
    return render(request, "sessions", context | {"has_tables": known} | (found(alias) if known else {}))


def found(alias: str) -> dict[str, Any]:
    applied = AppliedIndex.objects.using(alias).get()
    sessions = ClientSession.objects.using(alias).order_by("-last_log_time")
    newest = list(sessions[:SHOWN])
    counted = SessionResult.objects.using(alias).filter(session__in=[bytes(each.session) for each in newest])
    results = {bytes(each["session"]): each["count"] for each in counted.values("session").annotate(count=Count("*"))}
    return {
        "applied": applied,
        "total": sessions.count(),
        "ttl": lasting(datetime.timedelta(microseconds=SESSION_TTL)),
        "sessions": [
            {
                "id": bytes(each.session).hex(),
                "opened_index": each.opened_index,
                "last_seen": moment(each.last_log_time),
                "acknowledged_below": each.acknowledged_below,
                "results": results.get(bytes(each.session), 0),
            }
            for each in newest
        ],
        "locks": locks(alias),
    }


def locks(alias: str) -> list[tuple[str, list[str], list[list[Any]]]]:
    """Each table of the battery: its name, its columns, its rows; none where it is not installed."""
    if not apps.is_installed("raftlog.contrib.locks"):
        return []
    tables = []
    for model in apps.get_app_config(LOCKS).get_models():
        fields = [field.name for field in model._meta.concrete_fields]
        rows = [list(row) for row in model._default_manager.using(alias).order_by("pk").values_list(*fields)[:SHOWN]]
        tables.append((str(model._meta.verbose_name_plural), fields, rows))
    return tables


def lasting(time: datetime.timedelta) -> str:
    """Whole days as such, else hours:minutes:seconds."""
    whole = time.days and not time.seconds
    return f"{time.days} day{'' if time.days == 1 else 's'}" if whole else str(time)


def moment(microseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(microseconds / 1_000_000, datetime.UTC)


PAGE = Page("sessions", "Sessions and locks", view)
