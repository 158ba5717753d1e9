"""The commands of locks against a model, by log time that runs at its own speed and jumps with a new leader."""

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from raftlog.contrib.locks import commands
from raftlog.contrib.locks.exceptions import LockLost
from raftlog.contrib.locks.fence import SURE
from raftlog.contrib.locks.models import Done, Holder, LockClock, Waiter
from raftlog.replication.context import CommandContext
from raftlog.runtime.log_clock import MAX_STEERING
from tests.contrib.locks import MODELS, lock_tables

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), lock_tables(request.param, tmp_path):
        yield request.param


@pytest.fixture
def log(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), lock_tables("sqlite", tmp_path):
        yield Log()


class Log:
    """Runs commands as entries do: index, term and log time, which goes at the speed that the test says."""

    def __init__(self):
        self.index, self.term, self.time = 10, 1, START

    def run(self, command, **arguments):
        self.index += 1
        return command(CommandContext(index=self.index, term=self.term, log_time=self.time), **arguments)

    def wait(self, seconds):
        self.time += int(seconds * SECOND)

    def new_leader(self, jump=0.0):
        self.term += 1
        self.wait(jump)

    def acquire(self, owner, ttl=10, patience=6, limit=1, name="x", silent=None):
        return self.run(
            commands.acquire,
            name=name,
            owner=owner,
            ttl=int(ttl * SECOND),
            patience=int(patience * SECOND),
            limit=limit,
            silent=silent or {},
        )

    def renew(self, *owners, ttl=10):
        return self.run(commands.renew, ttls=dict.fromkeys(owners, ttl * SECOND))

    def release(self, *owners):
        return self.run(commands.release, owners=list(owners))


def test_a_free_lock_is_given_with_the_entrys_index_as_token(log):
    assert log.acquire("a")["token"] == 11
    assert log.acquire("b") == {"token": 0, "elapsed": 0, "ahead": 0}
    assert log.acquire("c")["ahead"] == 1


def test_asking_twice_is_asking_once(log):
    first = log.acquire("a")["token"]
    log.wait(9)
    assert log.acquire("a")["token"] == first
    log.wait(9)  # the second one renewed it
    assert log.renew("a") == ["a"]


def test_what_is_not_renewed_goes_to_the_first_that_waits(log):
    log.acquire("a")
    log.wait(5)
    log.acquire("b", patience=60)
    log.acquire("c", patience=60)
    log.wait(4.9)
    assert log.acquire("c")["token"] == 0
    log.wait(0.1)
    assert log.acquire("c", patience=60)["token"] == 0, "b is before it"
    taken = log.acquire("b")
    assert taken["token"] == log.index
    assert log.renew("a") == [], "a has lost it for good"


def test_who_waits_and_says_nothing_keeps_nobody_up(log):
    log.acquire("a")
    log.acquire("dead", patience=6)
    log.wait(4)
    log.acquire("b", patience=6)
    log.release("a")
    assert log.acquire("b")["token"] == 0
    log.wait(2)
    assert log.acquire("b")["token"] > 0


def test_one_that_does_not_wait_does_not_push_in(log):
    log.acquire("a")
    log.acquire("b")
    log.release("a")
    assert log.acquire("hasty", patience=0)["token"] == 0
    assert not Waiter.objects.filter(owner="hasty").exists()
    assert log.acquire("b")["token"] > 0


def test_a_new_leader_whose_clock_is_ahead_expires_nothing(log):
    log.acquire("a")
    log.wait(5)
    log.renew("a")
    log.new_leader(jump=3600)
    assert log.acquire("b")["token"] == 0
    log.wait(9)
    assert log.acquire("b")["token"] == 0
    log.wait(1)
    assert log.acquire("b")["token"] > 0


def test_whoever_is_seen_silent_for_a_whole_ttl_is_forgotten_though_the_clock_stands_still(log):
    """As where each process leads for a moment, and time between them does not count."""
    log.acquire("a")
    seen = {"a": log.index}
    log.new_leader()
    log.renew("a")
    assert log.acquire("b", silent=seen)["token"] == 0, "a has been renewed since"
    seen = {"a": log.index - 1}
    log.new_leader()
    assert log.acquire("b", silent=seen)["token"] == log.index
    assert log.acquire("b", silent={"b": log.index})["token"], "nobody forgets himself"


def test_a_semaphore_has_as_many_holders_as_its_limit(log):
    assert [log.acquire(owner, limit=2)["token"] > 0 for owner in "abc"] == [True, True, False]
    log.release("b")
    assert log.acquire("c", limit=2)["token"] > 0
    assert Holder.objects.count() == 2


def test_locks_of_other_names_have_nothing_to_do_with_it(log):
    assert log.acquire("a", name="x")["token"]
    assert log.acquire("b", name="y")["token"]


def test_an_operator_takes_a_lock_away(log):
    token = log.acquire("a")["token"]
    assert log.run(commands.force_release, name="x", token=token + 1) == 0
    assert log.run(commands.force_release, name="x") == 1
    assert log.renew("a") == []


def test_only_the_holder_notes_a_step_as_done_and_the_newest_hundred_are_kept(log):
    log.acquire("a", ttl=1000)
    with pytest.raises(LockLost, match="'x' was lost before 'v1' could be noted"):
        log.run(commands.complete, name="x", owner="b", key="v1")
    for number in range(105):
        log.run(commands.complete, name="x", owner="a", key=f"v{number}")
        log.run(commands.complete, name="x", owner="a", key=f"v{number}")
    assert sorted(Done.objects.values_list("key", flat=True)) == sorted(f"v{number}" for number in range(5, 105))


def test_both_vendors_do_the_same(database):
    log = Log()
    answers = [log.acquire("a"), log.acquire("b"), log.acquire("c", patience=0), log.renew("a", "b", "c")]
    log.wait(11)
    answers += [log.renew("a"), log.acquire("d", limit=2), log.release("d", "a"), log.acquire("e")]
    assert answers == [
        {"token": 11, "elapsed": 0, "ahead": 0},
        {"token": 0, "elapsed": 0, "ahead": 0},
        {"token": 0, "elapsed": 0, "ahead": 1},
        ["a"],
        [],
        {"token": 16, "elapsed": 11 * SECOND, "ahead": 0},
        1,
        {"token": 18, "elapsed": 11 * SECOND, "ahead": 0},
    ]
    log.run(commands.complete, name="x", owner="e", key="k")
    assert Done.objects.count() == 1


def test_the_margin_covers_the_fastest_that_log_time_can_run():
    assert SURE * (1 + MAX_STEERING) < 0.95


def test_a_release_hands_over_to_the_first_that_waits_in_its_own_entry(log):
    log.acquire("a.10000000")
    for owner in ("b.5000000", "c.10000000"):
        log.acquire(owner)
    log.wait(1)
    assert log.release("a.10000000") == 1
    (held,) = Holder.objects.all()
    assert (held.owner, held.token, held.ttl, held.renewed) == ("b.5000000", log.index, 5 * SECOND, log.index)
    assert held.expires_at == 6 * SECOND
    assert [waiter.owner for waiter in Waiter.objects.all()] == ["c.10000000"]
    token = log.index
    assert log.acquire("b.5000000")["token"] == token, "whoever asks goes on with it"


def test_a_release_hands_over_to_nobody_who_has_expired_or_does_not_say_for_how_long(log):
    log.acquire("a", ttl=30)
    log.acquire("b.5000000", patience=2)
    log.wait(3)
    log.acquire("older", patience=6)
    assert log.release("a") == 1
    assert not Holder.objects.exists()
    assert [waiter.owner for waiter in Waiter.objects.all()] == ["older"]
    assert log.acquire("older")["token"] == log.index


def test_one_entry_hands_over_one_lock_as_its_index_is_the_token(log):
    for name in "xy":
        log.acquire(f"{name}.9000000", name=name)
        log.acquire(f"{name}2.9000000", name=name)
    assert log.release("x.9000000", "y.9000000") == 2
    assert [held.owner for held in Holder.objects.all()] == ["x2.9000000"]
    assert log.acquire("y2.9000000", name="y")["token"] == log.index


def test_the_release_of_older_code_hands_over_to_nobody(log):
    log.acquire("a.10000000")
    log.acquire("b.10000000")
    assert log.run(commands.release_only, owners=["a.10000000"]) == 1
    assert not Holder.objects.exists()


# Three that say for how long, as today's code does, and two that do not.
OWNERS = st.sampled_from(["a.10000000", "b.10000000", "c.10000000", "d", "e"])


class LocksModel(RuleBasedStateMachine):
    """A list of holders and a list of waiters, in Python; and what each holder believes by a clock of its own.

    Real time and log time are two clocks: within a leadership the second is up to a tenth faster or slower, and
    with a new leader it jumps. A holder counts from before it asked.
    """

    limit = 1

    def __init__(self):
        super().__init__()
        for model in MODELS:
            model.objects.all().delete()
        self.log = Log()
        self.real = 0.0  # seconds
        self.now = 0  # the lock clock
        self.seen = None  # (term, log time) of the last command that reads the clock
        self.holders = {}  # owner -> (token, expires at)
        self.waiters = []  # [owner, expires at]
        self.renewed = {}  # owner -> index of the entry by which it was last renewed, or queued
        self.seen_rows = {}  # (owner, renewed) -> real time at which somebody saw it so
        self.beliefs = {}  # owner -> real time until which it is sure
        self.asked = {}  # owner -> real time before the question by which it waits
        self.newest = 0

    @rule(seconds=st.floats(0, 6), speed=st.floats(1 - MAX_STEERING, 1 + MAX_STEERING))
    def time_passes(self, seconds, speed):
        self.real += seconds
        self.log.wait(seconds * speed)

    @rule(jump=st.floats(0, 100))
    def another_leader(self, jump):
        self.log.new_leader(jump)

    def tick(self):
        term, time = self.log.term, self.log.time
        if self.seen and self.seen[0] == term:
            self.now += time - self.seen[1]
        self.seen = (term, time)
        self.holders = {owner: held for owner, held in self.holders.items() if held[1] > self.now}
        self.waiters = [waiter for waiter in self.waiters if waiter[1] > self.now]

    @rule()
    def somebody_looks(self):
        for model in (Holder, Waiter):
            for row in model.objects.all():
                self.seen_rows.setdefault((row.owner, row.renewed), self.real)

    def silent(self):
        """Owners that were seen unchanged for their whole ttl, as far as whoever looked knows: maybe not any more."""
        ttl = dict.fromkeys(self.holders, 10) | {waiter[0]: 6 for waiter in self.waiters}
        return {
            owner: renewed
            for (owner, renewed), first in self.seen_rows.items()
            if owner in ttl and self.real - first > ttl[owner]
        }

    @rule(owner=OWNERS, waits=st.booleans(), delay=st.floats(0, 2), tells=st.booleans())
    def acquire(self, owner, waits, delay, tells=False):
        """It is asked `delay` seconds before the entry is in the log."""
        asked_at = self.real
        silent = self.silent() if tells else {}
        self.time_passes(delay, 1.0)
        self.tick()
        forgotten = {other for other, index in silent.items() if other != owner and self.renewed[other] == index}
        self.holders = {other: held for other, held in self.holders.items() if other not in forgotten}
        self.waiters = [waiter for waiter in self.waiters if waiter[0] not in forgotten]
        place = next((at for at, waiter in enumerate(self.waiters) if waiter[0] == owner), len(self.waiters))
        answer = self.log.acquire(owner, ttl=10, patience=6 if waits else 0, limit=self.limit, silent=silent)
        if owner in self.holders:
            expected = self.holders[owner][0]
        elif place < self.limit - len(self.holders):
            expected = self.log.index
            assert expected > self.newest, "tokens grow"
            self.newest = expected
            self.waiters = [waiter for waiter in self.waiters if waiter[0] != owner]
            if self.limit == 1:
                others = [until for other, until in self.beliefs.items() if other != owner]
                assert all(until <= self.real for until in others), "somebody else is still sure to hold it"
        else:
            expected = 0
            kept = [waiter for waiter in self.waiters if waiter[0] == owner]
            if kept:
                kept[0][1] = self.now + 6 * SECOND * waits
                self.asked[owner] = asked_at
                self.renewed[owner] = self.log.index
            elif waits:
                self.waiters.append([owner, self.now + 6 * SECOND])
                self.asked[owner] = asked_at
                self.renewed[owner] = self.log.index
        assert answer == {"token": expected, "elapsed": self.now, "ahead": 0 if expected else place}
        if expected:
            self.holders[owner] = (expected, self.now + 10 * SECOND)
            self.renewed[owner] = self.log.index
            self.beliefs[owner] = asked_at + 10 * SURE

    @precondition(lambda self: self.holders)
    @rule(owners=st.sets(OWNERS))
    def renew(self, owners):
        self.tick()
        held = sorted(owners & set(self.holders))
        assert self.log.renew(*owners) == held
        for owner in held:
            self.holders[owner] = (self.holders[owner][0], self.now + 10 * SECOND)
            self.renewed[owner] = self.log.index
            self.beliefs[owner] = max(self.real + 10 * SURE, self.beliefs.get(owner, 0.0))

    @rule(owner=OWNERS)
    def release(self, owner):
        """What was held goes to the first that waits, whose ttl begins then; he counts from when he last asked."""
        self.log.release(owner)
        held = self.holders.pop(owner, None)
        self.beliefs.pop(owner, None)
        self.waiters = [waiter for waiter in self.waiters if waiter[0] != owner]
        if held and self.waiters:
            self.tick()
            if self.waiters and "." in self.waiters[0][0]:
                first = self.waiters.pop(0)[0]
                self.holders[first] = (self.log.index, self.now + 10 * SECOND)
                self.renewed[first] = self.log.index
                assert self.log.index > self.newest, "tokens grow"
                self.newest = self.log.index
                if self.limit == 1:
                    others = [until for other, until in self.beliefs.items() if other != first]
                    assert all(until <= self.real for until in others), "somebody else is still sure to hold it"
                self.beliefs[first] = self.asked[first] + 10 * SURE

    def teardown(self):
        held = {row.owner: (row.token, row.expires_at) for row in Holder.objects.all()}
        assert held == self.holders
        waiting = [[row.owner, row.expires_at] for row in Waiter.objects.order_by("ticket")]
        assert waiting == self.waiters


class SemaphoresModel(LocksModel):
    limit = 2


QUICK = settings(
    max_examples=60, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("machine", [LocksModel, SemaphoresModel])
def test_any_history_does_what_the_model_does_and_no_two_are_sure_to_hold(log, machine):
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous = OFF")
    run_state_machine_as_test(machine, settings=QUICK)


def test_the_model_finds_expiry_by_log_time_alone(log, monkeypatch):
    """As it would be without the lock clock: a new leader whose wall clock is ahead makes locks expire early."""

    def tick(ctx):
        for model in (Holder, Waiter):
            model.objects.filter(expires_at__lte=ctx.log_time - START).delete()
        LockClock.objects.all().delete()
        return ctx.log_time - START

    class Believed(LocksModel):
        def tick(self):
            self.now = self.log.time - START
            self.holders = {owner: held for owner, held in self.holders.items() if held[1] > self.now}
            self.waiters = [waiter for waiter in self.waiters if waiter[1] > self.now]

    monkeypatch.setattr(commands, "tick", tick)
    history = Believed()
    history.acquire(owner="a", waits=False, delay=0.0)
    history.another_leader(jump=8.0)
    with pytest.raises(AssertionError, match="somebody else is still sure to hold it"):
        history.acquire(owner="b", waits=False, delay=2.0)
