"""Requests whose transaction conflicted are run again."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from raftlog.backends import heat
from raftlog.backends.exceptions import TransactionConflict
from raftlog.backends.retry import ATTEMPTS, other_databases_watched, pause
from raftlog.replication.effects import Effects

# What a request has learned of its body; the next run needs it, since it cannot be read twice.
_BODY: Final = frozenset({"_body", "_post", "_files", "_read_started", "_stream"})


class RetryConflicts:
    """Run a request again whose transaction conflicted, if it has done nothing final (rule 3).

    Stands first in MIDDLEWARE, so that the others run again with it. With ATOMIC_REQUESTS, and for the admin, which
    wraps its writes in atomic(), users then never see a conflict in ordinary use. A retry takes the cluster's write
    turn, so that it comes through.

    Synchronous: its connections are those of the views, which under ASGI run in the same thread by turns.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        keep_small_body(request)
        before = dict(request.__dict__, META=dict(request.META))
        what = (request.method, request.path)
        is_hot = heat.is_hot(what)
        for attempt in range(1, ATTEMPTS + 1):
            request.raftlog_conflict = None  # type: ignore[attr-defined]  # by process_exception
            with Effects(attempt + is_hot) as effects, other_databases_watched(effects):
                request.raftlog_effects = effects if attempt < ATTEMPTS else None  # type: ignore[attr-defined]
                response = self.get_response(request)
            conflict = request.raftlog_conflict  # type: ignore[attr-defined]
            if conflict is not None and effects.count:
                raise conflict  # after the view, another middleware has written
            if conflict is None and (attempt == ATTEMPTS or not has_suffered(request, response, effects)):
                return response
            heat.conflicted(what)
            start_over(request, before)
            pause(attempt)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """A view raised: where it may be run again, a placeholder stands for the response."""
        effects: Effects | None = getattr(request, "raftlog_effects", None)
        if effects is None or effects.count or not can_rewind(request):
            return None
        if not isinstance(exception, TransactionConflict) and not effects.has_conflicted:
            return None
        request.raftlog_conflict = exception  # type: ignore[attr-defined]
        # 500, so that SessionMiddleware does not save what the view had put into the session.
        return HttpResponse(f"{exception}; it is run again", status=500)


def has_suffered(request: HttpRequest, response: HttpResponse, effects: Effects) -> bool:
    """Whether an error response is due to a conflict that other code (a middleware, say) turned into it."""
    is_error = response.status_code >= 400 and not response.streaming
    return is_error and effects.has_conflicted and not effects.count and can_rewind(request)


def keep_small_body(request: HttpRequest) -> None:
    """Read a body that is no form with files, and small, so that it can be read again."""
    limit: int | None = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    length = str(request.META.get("CONTENT_LENGTH") or 0)
    if request.content_type != "multipart/form-data" and length.isdigit() and 0 < int(length) <= (limit or 0):
        _ = request.body


def can_rewind(request: HttpRequest) -> bool:
    """Whether the body can be read again: not read yet, kept, or parsed into files that are still there."""
    was_read = getattr(request, "_read_started", False)
    kept = hasattr(request, "_body") or hasattr(request, "_post")
    if was_read and not kept:
        return False
    return all(_is_there(file) for files in _files(request) for file in files)


def start_over(request: HttpRequest, before: dict[str, Any]) -> None:
    """Make the request as it was before its first run, apart from what is known of its body.

    What a run has left on it (the user, say, with the changes that the view has made to it) belongs to that run.
    """
    known = {name: value for name, value in request.__dict__.items() if name in _BODY}
    request.__dict__.clear()
    request.__dict__.update(before, META=dict(before["META"]))
    request.__dict__.update(known)
    if "_body" in known:
        request._stream = io.BytesIO(known["_body"])
    for files in _files(request):
        for file in files:
            file.seek(0)


def _is_there(file: Any) -> bool:
    if file.closed or not file.seekable():
        return False
    path = getattr(file, "temporary_file_path", None)  # a large upload, which a storage may have moved away
    return path is None or Path(path()).exists()


def _files(request: HttpRequest) -> list[list[Any]]:
    uploaded = getattr(request, "_files", None)
    return [files for _, files in uploaded.lists()] if uploaded else []
