"""`@ratelimit("10/m", key="ip")` for views, plain or async: 429 with Retry-After for what is too much."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.db import connections, router, transaction
from django.http import HttpRequest, HttpResponse

from raftlog.contrib.ratelimit.api import Limit, acheck, check
from raftlog.contrib.ratelimit.models import NAME_LENGTH, Bucket
from raftlog.contrib.ratelimit.rates import parse_rate

Key = str | Callable[[HttpRequest], Any]
View = Callable[..., Any]


def ratelimit(
    rate: str, *, key: Key = "ip", group: str = "", cost: int = 1, approximate: bool = False, methods: str = ""
) -> Callable[[View], View]:
    """Let a view be called so often for each `key`.

    Args:
        rate: "10/m", "100/15min"; see check().
        key: "ip" (REMOTE_ADDR: behind a proxy, have it set from a header you trust), "user" (the address, where nobody
            is logged in), or a function of the request that returns what is counted together. None: not limited.
        group: views of one group share their limit (default: the view's dotted path).
        approximate: as in check().
        methods: only these, "POST" or "POST,PUT"; all, where it is empty.

    A refused request gets status 429 and Retry-After (seconds). Where the log cannot be asked, the view's caller gets
    what check() raises. Under ATOMIC_REQUESTS the limit is asked before the request's transaction begins.

    Raises ValueError for a rate, TypeError for a key, that is none.
    """
    parse_rate(rate)
    if not callable(key) and key not in ("ip", "user"):
        raise TypeError(f"@ratelimit({rate!r}): key is {key!r}; it must be 'ip', 'user' or a function of the request")
    limited = {method.strip().upper() for method in methods.split(",") if method.strip()}

    def decorate(view: View) -> View:
        prefix = group or f"{view.__module__}.{view.__qualname__}"

        def name_of(request: HttpRequest) -> str | None:
            if limited and request.method not in limited:
                return None
            value = _value(request, key)
            return None if value is None else bucket_name(prefix, str(value))

        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def async_limited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                name = name_of(request)
                limit = None if name is None else await acheck(name, rate, cost, approximate=approximate)
                return await view(request, *args, **kwargs) if limit is None or limit else too_many(limit)

            return markcoroutinefunction(async_limited)

        inner = _atomic_as_it_was(view)

        @functools.wraps(view)
        def sync_limited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            name = name_of(request)
            limit = None if name is None else check(name, rate, cost, approximate=approximate)
            return inner(request, *args, **kwargs) if limit is None or limit else too_many(limit)

        return transaction.non_atomic_requests(using=router.db_for_write(Bucket))(sync_limited)

    return decorate


def bucket_name(prefix: str, value: str) -> str:
    """Readable where it fits; what is long, or holds what a database might refuse, goes by its hash."""
    name = f"{prefix}:{value}"
    if len(name) <= NAME_LENGTH and value.isprintable():
        return name
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{prefix[: NAME_LENGTH - 40]}:#{digest}"


def too_many(limit: Limit) -> HttpResponse:
    response = HttpResponse("Too many requests\n", status=429, content_type="text/plain")
    response["Retry-After"] = str(math.ceil(limit.retry_after))
    return response


def _value(request: HttpRequest, key: Key) -> Any:
    if callable(key):
        return key(request)
    user = getattr(request, "user", None)
    if key == "user" and user is not None and user.is_authenticated:
        return f"user {user.pk}"
    return request.META.get("REMOTE_ADDR", "")


def _atomic_as_it_was(view: View) -> View:
    """The view in the transaction that ATOMIC_REQUESTS would have given it, which the limit must not be asked in."""
    alias = router.db_for_write(Bucket)
    was_atomic = alias not in getattr(view, "_non_atomic_requests", ())

    @functools.wraps(view)
    def inner(*args: Any, **kwargs: Any) -> Any:
        if was_atomic and connections.settings[alias]["ATOMIC_REQUESTS"]:
            with transaction.atomic(using=alias):
                return view(*args, **kwargs)
        return view(*args, **kwargs)

    return inner
