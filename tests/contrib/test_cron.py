"""Cron expressions against croniter and by hand; wall times of zones with summer time, each once."""

import datetime
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.contrib.schedule.cron import CronError, parse
from raftlog.contrib.schedule.times import Cron, Every

UTC = datetime.UTC
MINUTE = datetime.timedelta(minutes=1)


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(cron, first, last):
    """All due times after `first` up to `last`."""
    found, moment = [], first
    while (moment := cron.after(moment)) <= last:
        found.append(moment)
    return found


@st.composite
def field(draw, low, high):
    """A field, never one that begins with a star and is no star alone: croniter takes */2 for a restricted day."""

    def part():
        kind = draw(st.sampled_from(["number", "range", "step"]))
        first = draw(st.integers(low, high))
        if kind == "number":
            return f"{first}"
        last = draw(st.integers(first, high))
        if first == last:  # croniter takes 3-3 for all there are
            return f"{first}"
        return f"{first}-{last}" if kind == "range" else f"{first}-{last}/{draw(st.integers(1, high))}"

    if draw(st.booleans()):
        return "*"
    return ",".join(part() for _ in range(draw(st.integers(1, 3))))


expressions = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join)
moments = st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2035, 1, 1), timezones=st.just(UTC))


@settings(max_examples=60, deadline=None)
@given(expressions, moments)
def test_it_agrees_with_croniter(expression, moment):
    croniter = pytest.importorskip("croniter").croniter
    theirs = croniter(expression, moment)
    ours, found = Cron(expression), moment
    for _ in range(5):
        found = ours.after(found)
        assert found == theirs.get_next(datetime.datetime)
    assert ours.last(found) == found
    assert ours.last(found - datetime.timedelta(microseconds=1)) == croniter(expression, found).get_prev(
        datetime.datetime
    )


@settings(max_examples=30, deadline=None)
@given(
    expressions, moments, st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
)
def test_between_two_due_times_is_none_and_last_is_the_other_way_round(expression, moment, zone):
    cron = Cron(expression, zone)
    first = cron.after(moment)
    second = cron.after(first)
    assert moment < first < second
    assert cron.last(second - datetime.timedelta(microseconds=1)) == first
    assert cron.last(moment) <= moment
    assert cron.after(cron.last(moment)) == first


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 29 2 *", "2025-01-01", "2028-02-29"),
        ("0 0 13 * fri", "2026-01-01", "2026-01-02"),  # either day field
        ("0 0 */2 * mon", "2026-01-01", "2026-01-05"),  # a star: both
        ("0 9 * * mon-fri", "2026-01-02T09:00", "2026-01-05T09:00"),
        ("0 9 * * 5-7", "2026-01-05", "2026-01-09T09:00"),
        ("0 9 * * fri-sun", "2026-01-10T12:00", "2026-01-11T09:00"),
        ("5/20 * * * *", "2026-01-01T00:05", "2026-01-01T00:25"),
        ("@hourly", "2026-01-01T00:00", "2026-01-01T01:00"),
        ("@weekly", "2026-01-01", "2026-01-04"),
        ("0 0 1 JAN *", "2026-01-01", "2027-01-01"),
        ("0 0 29 2 mon", "2100-01-01", "2100-02-01"),
    ],
)
def test_by_hand(expression, after, expected):
    assert Cron(expression).after(at(after)) == at(expected)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("* * * *", "has 4 fields"),
        ("@often", "has 1 fields"),
        ("60 * * * *", "the minute is 60, outside 0 to 59"),
        ("* 24 * * *", "the hour is 24"),
        ("* * 0 * *", "the day of month is 0, outside 1 to 31"),
        ("* * * foo *", "the month is 'foo'; use 1 to 12 or jan…dec"),
        ("*/0 * * * *", "the step of the minute is 0"),
        ("9-5 * * * *", "ends before it begins"),
        ("1,,2 * * * *", "the minute is ''"),
        ("* * 30 2 *", "means no day at all"),
        ("² * * * *", "the minute is '²'"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(expression, words):
    with pytest.raises(CronError, match=words):
        parse(expression)


def test_a_zone_that_is_not_known_is_said():
    with pytest.raises(CronError, match="'Europe/Nowhere' is no time zone"):
        Cron("* * * * *", "Europe/Nowhere")


def test_a_wall_time_that_is_jumped_over_is_due_once_as_much_later():
    """Berlin, 29 March 2026: 02:00 becomes 03:00."""
    assert due(Cron("30 2 * * *", "Europe/Berlin"), at("2026-03-28T00:00"), at("2026-03-30T12:00")) == [
        at("2026-03-28T01:30"),  # 02:30, UTC+1
        at("2026-03-29T01:30"),  # 03:30, UTC+2
        at("2026-03-30T00:30"),  # 02:30, UTC+2
    ]
    both = Cron("30 2,3 * * *", "Europe/Berlin")  # the same moment that day: once
    assert due(both, at("2026-03-29T00:00"), at("2026-03-29T12:00")) == [at("2026-03-29T01:30")]
    every = due(Cron("*/10 * * * *", "Europe/Berlin"), at("2026-03-29T00:00"), at("2026-03-29T04:00"))
    assert {later - earlier for earlier, later in itertools.pairwise(every)} == {10 * MINUTE}


def test_a_wall_time_that_comes_twice_is_due_the_first_time():
    """Berlin, 25 October 2026: 03:00 becomes 02:00."""
    assert due(Cron("30 2 * * *", "Europe/Berlin"), at("2026-10-24T12:00"), at("2026-10-26T12:00")) == [
        at("2026-10-25T00:30"),  # 02:30, UTC+2
        at("2026-10-26T01:30"),  # 02:30, UTC+1
    ]
    every = due(Cron("*/30 * * * *", "Europe/Berlin"), at("2026-10-24T23:30"), at("2026-10-25T02:30"))
    assert every == [at("2026-10-25T00:00"), at("2026-10-25T00:30"), at("2026-10-25T02:00"), at("2026-10-25T02:30")]


def test_each_wall_time_of_a_year_is_due_once():
    for zone in ("Europe/Berlin", "America/Santiago"):  # Santiago jumps at midnight
        found = due(Cron("15 */6 * * *", zone), at("2026-01-02T00:00"), at("2027-01-02T00:00"))
        assert len(found) == len(set(found)) == 365 * 4
        assert found == sorted(found)


@given(st.floats(1, 1e6), moments)
def test_every_so_many_seconds(seconds, moment):
    every = Every(seconds)
    following = every.after(moment)
    assert following > moment >= every.last(moment)
    assert following - every.last(moment) == datetime.timedelta(microseconds=round(seconds * 1e6))


def test_seconds_that_are_none():
    for wrong in (0, 0.5, "60", 1e12):
        with pytest.raises(ValueError, match="every is"):
            Every(wrong)
    assert str(Every(datetime.timedelta(minutes=5))) == "every 300 s"
