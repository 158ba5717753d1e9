"""Middleware of raftlog, for MIDDLEWARE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from raftlog.backends.exceptions import TransactionConflict
from raftlog.backends.retry import ATTEMPTS, other_databases_watched, pause
from raftlog.replication.effects import Effects


class RetryConflicts:
    """Run a request again whose transaction conflicted, if it has done nothing final (rule 3).

    Stands first in MIDDLEWARE, so that the others run again with it. With ATOMIC_REQUESTS, and for the admin, which
    wraps its writes in atomic(), users then never see a conflict in ordinary use.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        for attempt in range(1, ATTEMPTS + 1):
            request.raftlog_conflict = None  # type: ignore[attr-defined]  # by process_exception
            with Effects(attempt) as effects, other_databases_watched(effects):
                request.raftlog_effects = effects if attempt < ATTEMPTS else None  # type: ignore[attr-defined]
                response = self.get_response(request)
            if request.raftlog_conflict is None:  # type: ignore[attr-defined]
                return response
            rewind(request)
            pause(attempt)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """A view raised: where it may be run again, a placeholder stands for the response."""
        effects: Effects | None = getattr(request, "raftlog_effects", None)
        if not isinstance(exception, TransactionConflict) or effects is None or effects.count:
            return None
        if not can_rewind(request):
            return None
        request.raftlog_conflict = exception  # type: ignore[attr-defined]
        return HttpResponse(f"{exception}; it is run again", status=503, headers={"Retry-After": "1"})


def can_rewind(request: HttpRequest) -> bool:
    """Whether the body can be read again: not read yet, kept, or parsed into seekable files."""
    was_read = getattr(request, "_read_started", False)
    kept = hasattr(request, "_body") or hasattr(request, "_post")
    if was_read and not kept:
        return False
    return all(file.seekable() for files in _files(request) for file in files)


def rewind(request: HttpRequest) -> None:
    for files in _files(request):
        for file in files:
            file.seek(0)


def _files(request: HttpRequest) -> list[list[Any]]:
    uploaded = getattr(request, "_files", None)
    return [files for _, files in uploaded.lists()] if uploaded else []
