"""What probes and Prometheus ask. Answered from this host's node, in whichever process of the host the view runs.

healthz says whether the node works: a load balancer's or an orchestrator's reason to restart the host. readyz says
whether requests should be sent here: a leader is known, and the database is not far behind. Neither names anything
secret to strangers; metrics does say much, so it is for this host, for whoever has METRICS_TOKEN, and for staff who may
see the cluster.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from raftlog.asking import ask, fetch_status
from raftlog.conf import Settings, load_settings
from raftlog.exceptions import RaftlogError
from raftlog.observing.metrics import CONTENT_TYPE

TIMEOUT: Final = 1.0  # seconds for the node's answer
MAX_BACKLOG: Final = 1_000  # entries that a ready node may lack
LOOPBACK: Final = ("127.0.0.1", "::1")  # not "", a Unix socket: that is a proxy, which speaks for anybody
FORWARDED: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 where the node answers and has no problem; else 503 with what it is."""
    status, problem = _status()
    problems = [problem] if status is None else status["problems"]
    return _answer(not problems, {"problems": problems})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 where requests may be sent here; else 503 with why not."""
    status, problem = _status()
    if status is None:
        return _answer(False, {"why": problem})
    backlog = status["commit_index"] - status["last_applied"]
    why = ""
    if not status["leader_id"]:
        why = "no leader is known"
    elif backlog > MAX_BACKLOG:
        why = f"{backlog} committed entries are not applied here; at most {MAX_BACKLOG} may be"
    elif status["problems"]:
        why = "; ".join(status["problems"])
    return _answer(not why, {"why": why, "backlog": backlog, "leader_id": status["leader_id"]})


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The node's metrics, in Prometheus's text format."""
    settings = load_settings()
    if not _may_see_metrics(request, settings):
        return HttpResponse(
            "metrics are for this host; others send RAFTLOG['METRICS_TOKEN'] as a bearer token\n",
            status=403,
            content_type="text/plain",
        )
    try:
        text = ask(settings, "metrics", timeout=TIMEOUT)
    except (RaftlogError, OSError) as error:
        return HttpResponse(f"the node does not answer: {error}\n", status=503, content_type="text/plain")
    return HttpResponse(text, content_type=CONTENT_TYPE)


def _may_see_metrics(request: HttpRequest, settings: Settings) -> bool:
    if settings.metrics_token:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), settings.metrics_token.encode()):
            return True
    elif request.META.get("REMOTE_ADDR") in LOOPBACK and not any(name in request.headers for name in FORWARDED):
        return True
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff and user.has_perm("raftlog.view_cluster")


def _status() -> tuple[dict[str, Any] | None, str]:
    try:
        return fetch_status(load_settings(), timeout=TIMEOUT), ""
    except (RaftlogError, OSError) as error:
        return None, f"the node does not answer: {error}"


def _answer(is_well: bool, details: dict[str, Any]) -> JsonResponse:
    return JsonResponse({"ok": is_well, **details}, status=200 if is_well else 503)
