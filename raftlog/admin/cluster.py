"""The page "Cluster": a picture of the members, and what an operator wants to know at 3 a.m."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponseBase

from raftlog.admin.pages import Page, render, report_of_cluster
from raftlog.observing.picture import picture, warnings
from raftlog.observing.view import sentence, turn_sentence


def view(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    return render(request, "cluster", context | fragment_context())


def fragment_context(report: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the part of the page that follows the cluster is made of."""
    report = report or report_of_cluster()
    return {
        "report": report,
        "sentence": sentence(report),
        "turn": turn_sentence(report),
        "picture": picture(report),
        "warnings": warnings(report),
        **colours(report),
    }


def colours(report: dict[str, Any]) -> dict[str, bool]:
    can_write = report["exit_code"] == 0
    return {"is_well": can_write and report["voters_up"] == report["voters"], "can_write": can_write}


PAGE = Page("cluster", "Cluster", view, live=True)
