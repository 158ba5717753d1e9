"""Rate limits: never more than a bucket allows, by log time, and what views answer."""

import asyncio
import math

import pytest
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raftlog
from raftlog.consensus.entries import COMMAND
from raftlog.contrib.ratelimit import acheck, api, check, commands, decorator, ratelimit
from raftlog.contrib.ratelimit.commands import forget, take
from raftlog.contrib.ratelimit.leases import leases
from raftlog.contrib.ratelimit.models import Bucket
from raftlog.contrib.ratelimit.rates import parse_rate
from raftlog.exceptions import InsideTransaction, InvalidArguments, NodeUnavailable
from raftlog.replication.context import CommandContext
from tests.contrib.databases import make_tables, node, stock_file  # noqa: F401

SECOND = 1_000_000


@pytest.fixture
def limiter(node, monkeypatch):  # noqa: F811
    """The node; log time and this host's clock are one, and stand still."""
    make_tables(Bucket)
    monkeypatch.setattr(api.clock, "wall_microseconds", lambda: node.log_time)
    leases._start_over()
    return node


def entries(node):  # noqa: F811
    return sum(payload[0] == COMMAND for payload in node.proposed)


def test_a_bucket_lets_through_what_it_holds_and_then_what_comes_back(limiter):
    answers = [check("mail", "3/m") for _ in range(5)]
    assert [(bool(answer), answer.remaining, answer.retry_after) for answer in answers] == [
        (True, 2, 0.0),
        (True, 1, 0.0),
        (True, 0, 0.0),
        (False, 0, 20.0),
        (False, 0, 20.0),
    ]
    assert check("other", "3/m")
    limiter.log_time += 19 * SECOND
    assert not check("mail", "3/m")
    limiter.log_time += SECOND
    assert [bool(check("mail", "3/m")) for _ in range(2)] == [True, False]
    limiter.log_time += 3600 * SECOND
    assert [bool(raftlog.ratelimit("mail", "3/m")) for _ in range(4)] == [True, True, True, False]


def test_a_refusal_that_this_host_can_see_makes_no_entry(limiter):
    assert check("mail", "1/m")
    before = entries(limiter)
    assert not any(check("mail", "1/m") for _ in range(10))
    assert entries(limiter) == before


def test_a_host_whose_clock_is_behind_asks_the_log(limiter, monkeypatch):
    assert check("mail", "1/m")
    limiter.log_time += 60 * SECOND
    now = limiter.log_time - 3600 * SECOND
    monkeypatch.setattr(api.clock, "wall_microseconds", lambda: now)
    assert check("mail", "1/m")


def test_cost(limiter):
    assert check("mail", "10/m", 7).remaining == 3
    refused = check("mail", "10/m", 4)
    assert (refused.allowed, refused.remaining, refused.retry_after) == (False, 3, 6.0)
    assert check("mail", "10/m", 3)


def test_approximate_answers_out_of_a_lease(limiter):
    allowed = sum(bool(check("page", "100/m", approximate=True)) for _ in range(150))
    assert allowed == 100
    assert entries(limiter) == 20
    limiter.log_time += 60 * SECOND
    assert check("page", "100/m", 50, approximate=True).remaining == 50


def test_a_lease_ends_with_the_period(limiter, monkeypatch):
    assert check("page", "100/m", approximate=True)
    assert leases.left("page") == 4
    later = api.clock.monotonic() + 61
    monkeypatch.setattr(api.clock, "monotonic", lambda: later)
    limiter.log_time += 61 * SECOND
    assert check("page", "100/m", approximate=True).remaining == 95
    assert leases.left("page") == 4


def test_full_buckets_are_pruned(limiter, monkeypatch):
    monkeypatch.setattr(commands, "PRUNE_ONE_IN", 1)
    monkeypatch.setattr(commands, "PRUNED", 3)
    for n in range(5):
        assert check(f"user {n}", "1/s")
        limiter.log_time += 1000
    limiter.log_time += 2 * SECOND
    assert check("other", "1/m")
    assert Bucket.objects.count() == 3
    assert check("another", "1/m")
    assert sorted(Bucket.objects.values_list("pk", flat=True)) == ["another", "other"]


def test_forget(limiter):
    assert check("mail", "1/d")
    assert [forget.propose(name="mail"), forget.propose(name="mail")] == [True, False]
    assert check("mail", "1/d")


@pytest.mark.parametrize(
    ("rate", "burst", "period"),
    [("10/m", 10, 60), ("5/s", 5, 1), ("100/15min", 100, 900), ("3/2h", 3, 7200), ("1000/day", 1000, 86400)],
)
def test_rates(rate, burst, period):
    found = parse_rate(rate)
    assert found.burst == burst
    assert period <= found.period < period + 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "name is ''"),
        (("x" * 301,), "1 to 300"),
        (("x", "0/m"), "the rate is '0/m'"),
        (("x", "10"), "write how many"),
        (("x", "10/0m"), "the rate is"),
        (("x", "2000000/m"), "at most 1000000"),
        (("x", ["10/m"]), "rate limit 'x'"),
        (("x", "10/m", 11), "cost is 11; of '10/m' it must be from 1 to 10"),
        (("x", "10/m", True), "cost is True"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    with pytest.raises(InvalidArguments, match=message):
        check(*arguments, **({"rate": "1/m"} if len(arguments) == 1 else {}))


def test_it_is_refused_in_a_transaction(limiter):
    with transaction.atomic(), pytest.raises(InsideTransaction, match="'mail' inside an open transaction"):
        check("mail", "1/m")


# Views


def request(address="10.0.0.1", method="GET"):
    return RequestFactory().generic(method, "/", REMOTE_ADDR=address)


def statuses(view, *requests):
    return [view(one).status_code for one in requests]


def test_a_view_answers_429_with_retry_after(limiter):
    @ratelimit("2/m")
    def view(request):
        return HttpResponse("fine")

    assert statuses(view, request(), request(), request(), request("10.0.0.2")) == [200, 200, 429, 200]
    assert view(request())["Retry-After"] == "30"


def test_what_is_counted_together(limiter):
    class User:
        pk = 7
        is_authenticated = True

    def logged_in(address):
        made = request(address)
        made.user = User()
        return made

    @ratelimit("1/m", key="user")
    def by_user(request):
        return HttpResponse()

    @ratelimit("1/m", key=lambda request: request.headers.get("X-Key"), methods="post")
    def by_header(request):
        return HttpResponse()

    assert statuses(by_user, logged_in("1.1.1.1"), logged_in("2.2.2.2"), request("3.3.3.3")) == [200, 429, 200]
    assert statuses(by_header, request(), request(method="POST"), request(method="POST")) == [200, 200, 200]
    strange = [RequestFactory().post("/", headers={"X-Key": "\0 \n" + "x" * 1000}) for _ in range(2)]
    assert statuses(by_header, *strange) == [200, 429]
    assert decorator.bucket_name("view", "\ud800").startswith("view:#")
    with pytest.raises(TypeError, match="key is 'session'"):
        ratelimit("1/m", key="session")
    with pytest.raises(ValueError, match="the rate is 'often'"):
        ratelimit("often")


def test_an_async_view(limiter):
    @ratelimit("1/m", group="async")
    async def view(request):
        return HttpResponse()

    async def use():
        found = [(await view(request())).status_code for _ in range(2)]
        return [*found, bool(await acheck("async:10.0.0.1", "1/m")), bool(await acheck("x", "30/m", approximate=True))]

    assert asyncio.run(use()) == [200, 429, False, True]


def test_under_atomic_requests_the_limit_is_asked_before_the_transaction(limiter, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    from django.core.handlers.base import BaseHandler

    @ratelimit("2/m")
    def view(request):
        return HttpResponse(str(connection.in_atomic_block))

    @ratelimit("1/m")
    @transaction.non_atomic_requests
    def not_atomic(request):
        return HttpResponse(str(connection.in_atomic_block))

    made = BaseHandler().make_view_atomic(view)
    assert [made(request()).content, made(request()).status_code, made(request()).status_code] == [b"True", 200, 429]
    assert BaseHandler().make_view_atomic(not_atomic)(request()).content == b"False"


def test_where_the_log_cannot_be_asked_the_caller_hears_so(limiter):
    limiter.unavailable = True
    with pytest.raises(NodeUnavailable):
        check("mail", "1/m")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from(["3/s", "7/m", "1/s", "20/2s"]),
    steps=st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(1, 5), st.booleans()), max_size=30),
)
def test_never_more_than_the_bucket_and_what_came_back(stock_file, rate, steps):  # noqa: F811
    """Of any stretch of time, not only from the beginning; and a refusal tells exactly when it would be let through."""
    if not connection.introspection.table_names():
        make_tables(Bucket)
    burst, interval = parse_rate(rate)
    now, taken = 10**15, []
    forget(CommandContext(), name="x")
    for index, (passed, cost, all_or_nothing) in enumerate(steps):
        now += passed
        cost = min(cost, burst)

        def ask(at, cost=cost, index=index, at_least=cost if all_or_nothing else 1):
            ctx = CommandContext(index=index + 1, log_time=at)
            return take(ctx, name="x", tokens=cost, at_least=at_least, burst=burst, interval=interval)

        answer = ask(now)
        if not answer["taken"]:
            assert ask(now + answer["wait"] - 1)["taken"] == 0
            now += answer["wait"]
            answer = ask(now)
        assert 0 < answer["taken"] <= cost
        taken.append((now, answer["taken"]))
    for start, (began, _) in enumerate(taken):
        total = 0
        for at, count in taken[start:]:
            total += count
            assert total <= burst + math.floor((at - began) / interval)
