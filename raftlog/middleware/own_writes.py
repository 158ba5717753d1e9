"""A user reads what this user wrote, whichever host answers: the index of the last write travels with the user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from raftlog.backends.reads import acatch_up, catch_up, cluster_here
from raftlog.conf import load_settings
from raftlog.exceptions import ReadNotConfirmed
from raftlog.replication.written import Written

SALT: Final = "raftlog.read-your-writes"
LATE_HEADER: Final = "Raftlog-Late"


class ReadYourWrites:
    """A request waits until this host's database holds what its user has written before, on whichever host.

    The response to a request that wrote carries the index of its last write, signed, in a cookie, and in a header for
    clients that keep none (they send it back under the same name). The next request waits for it, at most
    RAFTLOG["READ_YOUR_WRITES_TIMEOUT"] seconds; then it is answered with 503 or, where
    RAFTLOG["READ_YOUR_WRITES_LATE"] is "serve", goes on with what is there, and its response says so (Raftlog-Late).

    What was not signed with this project's SECRET_KEY, or belongs to another cluster (or to this one before a
    restore), is ignored. What a streaming response writes while it is sent is not seen. Stands after RetryConflicts.
    Synchronous and asynchronous.
    """

    sync_capable = True
    async_capable = True

    # To be changed in a subclass.
    cookie_name = "raftlog_written"
    header_name = "Raftlog-Written"
    max_age = 3600  # seconds; hosts are not further behind than that, or have other troubles

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        options = load_settings()
        self.timeout = options.read_your_writes_timeout
        self.refuses_late = options.read_your_writes_late == "refuse"
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if self.is_async:
            return self._answer_async(request)
        mark = self._mark_of(request)
        late = None
        if mark is not None and mark[0] == cluster_here():
            try:
                catch_up(mark[1], self.timeout)
            except ReadNotConfirmed as error:
                late = error
        if late is not None and self.refuses_late:
            return self._refusal(late)
        with Written() as written:
            response: HttpResponse = self.get_response(request)
        return self._told(response, written.index, cluster_here() if written.index else "", late)

    async def _answer_async(self, request: HttpRequest) -> HttpResponse:
        here = sync_to_async(cluster_here, thread_sensitive=True)
        mark = self._mark_of(request)
        late = None
        if mark is not None and mark[0] == await here():
            try:
                await acatch_up(mark[1], self.timeout)
            except ReadNotConfirmed as error:
                late = error
        if late is not None and self.refuses_late:
            return self._refusal(late)
        with Written() as written:
            response: HttpResponse = await self.get_response(request)
        return self._told(response, written.index, await here() if written.index else "", late)

    def _mark_of(self, request: HttpRequest) -> tuple[str, int] | None:
        """(cluster id, index) of this user's last write, the header's rather than the cookie's."""
        text = request.headers.get(self.header_name) or request.COOKIES.get(self.cookie_name)
        if not text:
            return None
        try:
            mark = signing.loads(text, salt=SALT, max_age=self.max_age)
        except signing.BadSignature:
            return None
        match mark:
            case [str(cluster_id), int(index)]:
                return cluster_id, index
        return None

    def _refusal(self, late: ReadNotConfirmed) -> HttpResponse:
        text = f"This server has not yet seen your last change. Try again in a moment. ({late})"
        return HttpResponse(text, status=503, content_type="text/plain", headers={"Retry-After": "1"})

    def _told(self, response: HttpResponse, index: int, cluster_id: str, late: Exception | None) -> HttpResponse:
        if late is not None:
            response.headers[LATE_HEADER] = str(late)
        if index:
            mark = signing.dumps((cluster_id, index), salt=SALT)
            response.headers[self.header_name] = mark
            response.set_cookie(
                self.cookie_name,
                mark,
                max_age=self.max_age,
                path=settings.SESSION_COOKIE_PATH,
                domain=settings.SESSION_COOKIE_DOMAIN,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response
