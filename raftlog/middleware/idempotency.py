"""Requests that are done once: `Idempotency-Key` as the IETF's draft of that header says (httpapi working group)."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve

from raftlog.backends.idempotent import idempotent
from raftlog.exceptions import IdempotencyKeyReused, InvalidArguments, NotProposed, OutcomeUnknown, ProposalError
from raftlog.log_fields import log_fields
from raftlog.replication import propose
from raftlog.replication.keyed import IdempotencyName, numbered_keys
from raftlog.runtime import clock

logger = logging.getLogger("raftlog.middleware")

# Answers that say "try again later", or "not you, not now" (a token of CSRF that is missing, a login that has ended):
# not recorded, and what the view wrote is rolled back, as with every 5xx.
RETRIABLE: Final = frozenset({401, 403, 408, 409, 423, 425, 429})
FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
CSRF_FIELD: Final = "csrfmiddlewaretoken"  # another one each time that a form is shown


class Idempotency:
    """Answer a request whose `Idempotency-Key` was seen before with what it was answered then, and run nothing.

    Stands after AuthenticationMiddleware in MIDDLEWARE, so that keys are their user's own. It runs the view in a
    transaction (as ATOMIC_REQUESTS does) in which the response is recorded too: both are committed, or neither is.
    A view marked with @transaction.non_atomic_requests runs outside; the commands that it proposes get keys made from
    the request's, so that running it again does not run them again.

    Subclass it to set the attributes below or to override scope().
    """

    header: str = "Idempotency-Key"
    methods: frozenset[str] = frozenset({"POST", "PUT", "PATCH", "DELETE"})
    # Of the response, beside its status; cookies are never recorded.
    recorded_headers: tuple[str, ...] = (
        *("Content-Type", "Content-Language", "Content-Disposition", "Location", "ETag", "Last-Modified"),
        *("Cache-Control", "Vary"),
    )
    # A larger body, or one that streams, is not recorded: a repeat gets status and headers.
    max_body_bytes: int = 64 * 1024
    # Seconds that a request waits for another one with its key in this process; then 409.
    wait: float = 5.0

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method not in self.methods or self.header not in request.headers:
            return self.get_response(request)
        try:
            name = IdempotencyName(self.scope(request), unquoted(request.headers[self.header]))
            name.asking()
        except InvalidArguments as error:
            return problem(400, f"The header {self.header} is no idempotency key", str(error))
        asked = what_is_asked(request)
        with _running.alone(name, self.wait) as is_alone:
            if not is_alone:
                return problem(409, "A request with this idempotency key is being processed", "Try again.", retry=True)
            return self._answer(request, name, asked)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """A view raised (Http404, say): what it has written is rolled back, as under ATOMIC_REQUESTS."""
        request.raftlog_view_has_raised = True  # type: ignore[attr-defined]

    def scope(self, request: HttpRequest) -> str:
        """Whose key it is, up to 200 characters: nobody gets what was answered to another one.

        The user; else what the client shows of itself (session, Authorization); else its address.
        """
        user = getattr(request, "user", None)
        if user is not None and user.is_authenticated:
            return f"user {user.pk}"
        session = getattr(request, "session", None)
        shown = [getattr(session, "session_key", None) or "", request.headers.get("Authorization", "")]
        if any(shown):
            return f"client {hashlib.blake2b(json.dumps(shown).encode(), digest_size=16).hexdigest()}"
        return f"address {request.META.get('REMOTE_ADDR', '')}"

    def _answer(self, request: HttpRequest, name: IdempotencyName, asked: Any) -> HttpResponse:
        try:
            if is_atomic(request):
                return self._in_a_transaction(request, name, asked)
            return self._outside(request, name, asked)
        except IdempotencyKeyReused as error:
            return problem(422, "This idempotency key was used for another request", str(error))
        except (NotProposed, OutcomeUnknown) as error:
            logger.warning(
                "%s %s with idempotency key %r: %s",
                *(request.method, request.path, name.key, error),
                extra=log_fields("response_not_recorded", about=name.key, reason=str(error)),
            )
            is_known = isinstance(error, NotProposed)
            title = "It cannot be done now; nothing was" if is_known else "Whether it was done is not known"
            return problem(503, title, "Ask again with the same key.", retry=True)

    def _in_a_transaction(self, request: HttpRequest, name: IdempotencyName, asked: Any) -> HttpResponse:
        response: HttpResponse | None = None
        session = SessionBefore(getattr(request, "session", None))
        with idempotent(name.key, scope=name.scope, asked=asked) as once:
            if not once.is_repeat:
                response = self.get_response(request)
                # Of a transaction that is broken, Django rolls back whatever the view has made of it.
                is_broken = connections[propose.limits().alias].needs_rollback
                has_raised = getattr(request, "raftlog_view_has_raised", False)
                if is_broken or has_raised or not is_final(response):
                    once.discard()
                else:
                    once.result = self._recorded(response)
        if not once.is_repeat:
            assert response is not None
            return response
        if response is not None:  # another request was first: this one's transaction was rolled back
            response.close()
            session.restore()
        return replayed(once.result)

    def _outside(self, request: HttpRequest, name: IdempotencyName, asked: Any) -> HttpResponse:
        with idempotent(name.key, scope=name.scope, asked=asked) as once:
            once.discard()
        if once.is_repeat:
            return replayed(once.result)
        with numbered_keys(name.scope, name.key):
            response = self.get_response(request)
        if is_final(response):
            try:
                with idempotent(name.key, scope=name.scope, asked=asked) as once:
                    if not once.is_repeat:
                        once.result = self._recorded(response)
            except ProposalError as error:  # its commands have keys of their own: a repeat runs it again, in vain
                logger.warning(
                    "the response under idempotency key %r is not recorded: %s",
                    *(name.key, error),
                    extra=log_fields("response_not_recorded", about=name.key, reason=str(error)),
                )
        return response

    def _recorded(self, response: HttpResponse) -> dict[str, Any]:
        is_kept = not response.streaming and len(response.content) <= self.max_body_bytes
        return {
            "status": response.status_code,
            "headers": {name: response[name] for name in self.recorded_headers if name in response},
            "body": response.content if is_kept else None,
        }


class SessionBefore:
    """A request's session before its view: SessionMiddleware would save what a view did that is rolled back."""

    def __init__(self, session: Any) -> None:
        self._session = session
        if session is not None:
            was_loaded = hasattr(session, "_session_cache")
            self._content = copy.deepcopy(session._session_cache) if was_loaded else None
            self._state = (session._session_key, session.accessed, session.modified)

    def restore(self) -> None:
        """As it was, its key too: a view that logged somebody in has made another one."""
        session = self._session
        if session is None:
            return
        if self._content is not None:
            session._session_cache = self._content
        elif hasattr(session, "_session_cache"):
            del session._session_cache  # loaded again where somebody asks
        session._session_key, session.accessed, session.modified = self._state


def is_final(response: HttpResponse) -> bool:
    """Whether a repeat is to be answered with it."""
    return response.status_code < 500 and response.status_code not in RETRIABLE


def replayed(recorded: dict[str, Any]) -> HttpResponse:
    body, headers = recorded["body"], recorded["headers"]
    response = HttpResponse(body or b"", status=recorded["status"], headers=headers)
    if "Content-Type" not in headers:
        del response["Content-Type"]
    response["Idempotency-Replayed"] = "true"
    if body is None:
        response["Idempotency-Body-Omitted"] = "true"
    return response


def problem(status: int, title: str, detail: str, *, retry: bool = False) -> HttpResponse:
    """An answer of this middleware's own (RFC 9457)."""
    content = json.dumps({"status": status, "title": title, "detail": detail})
    response = HttpResponse(content, status=status, content_type="application/problem+json")
    if retry:
        response["Retry-After"] = "1"
    return response


def unquoted(value: str) -> str:
    """The draft has a quoted string, most clients send it bare."""
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def what_is_asked(request: HttpRequest) -> list[Any]:
    """What must be the same in a repeat: method, path with query, and body, a form's by its fields."""
    what: list[Any] = [request.method, request.get_full_path()]
    if request.method == "POST" and request.content_type in FORMS:
        fields = {name: values for name, values in request.POST.lists() if name != CSRF_FIELD}
        files = {name: [_described(file) for file in files] for name, files in request.FILES.lists()}
        return [*what, fields, files]
    return [*what, request.content_type, request.body]


def _described(file: Any) -> list[Any]:
    digest = hashlib.blake2b(digest_size=16)
    for chunk in file.chunks():
        digest.update(chunk)
    file.seek(0)
    return [file.name, file.size, digest.digest()]


def is_atomic(request: HttpRequest) -> bool:
    """Whether its view may run in a transaction."""
    try:
        view = resolve(request.path_info, getattr(request, "urlconf", None)).func
    except Resolver404:
        return True
    return propose.limits().alias not in getattr(view, "_non_atomic_requests", ())


class _Running:
    """The keys of the requests that this process is at, so that a second one waits instead of running in vain."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._names: set[IdempotencyName] = set()

    @contextmanager
    def alone(self, name: IdempotencyName, timeout: float) -> Iterator[bool]:
        """Whether nobody else is at it, after at most `timeout` seconds."""
        deadline = clock.monotonic() + timeout
        with self._changed:
            if not self._changed.wait_for(lambda: name not in self._names, max(deadline - clock.monotonic(), 0)):
                is_alone = False
            else:
                is_alone = True
                self._names.add(name)
        try:
            yield is_alone
        finally:
            if is_alone:
                with self._changed:
                    self._names.discard(name)
                    self._changed.notify_all()


_running: Final = _Running()
# The threads of the parent, with their requests, do not exist in a child.
os.register_at_fork(after_in_child=_running.__init__)  # type: ignore[misc]
