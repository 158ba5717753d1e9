"""Elections: one process leads, goes on leading, and is followed by another; functions that only it runs."""

import os

import pytest
from asgiref.sync import markcoroutinefunction

import raftlog
from raftlog.contrib import leader, locks
from raftlog.contrib.leader import elections
from raftlog.contrib.locks import api, attempt
from raftlog.contrib.locks.models import Holder
from tests.contrib.locks import wait_until


@pytest.fixture
def standing(lock_node):
    yield lock_node
    elections._elections.resign_all()
    elections._elections.start_over()


def another_leads(name="leader"):
    """As another process would."""
    return api.take(attempt.Wanted(f"leader:{name}", ttl=2, wait=0))


def test_the_first_that_calls_leads_and_goes_on_leading(standing):
    ran = []

    @raftlog.only_on_leader
    def work(text, *, more=""):
        """Its words."""
        ran.append(text + more)
        return len(ran)

    assert work("a") == 1
    before = len(standing.proposed)
    assert work("b", more="c") == 2
    assert len(standing.proposed) == before, "it asks nobody for as long as it leads"
    assert ran == ["a", "bc"]
    assert (work.__name__, work.__doc__) == ("work", "Its words.")
    assert Holder.objects.get().name == "leader:leader"
    with pytest.raises(locks.LockNotAcquired):
        another_leads()


def test_where_another_leads_nothing_is_run_until_that_one_is_gone(standing):
    ran = []
    work = raftlog.only_on_leader(name="mails", ttl=2)(lambda: ran.append(1))
    other = another_leads("mails")
    assert work() is None
    assert not leader.election("mails").is_won
    api.give_back(other)
    work()
    assert ran == [1]
    assert leader.election("mails").is_won


def test_without_a_majority_nobody_leads(standing):
    standing.refuse = lambda payloads: "NoLeader"
    assert leader.election("x").stand() is None


def test_a_lead_that_was_lost_is_stood_for_again(standing):
    election = leader.election("x", ttl=2)
    first = election.stand()
    first.lost("for the test")
    assert not election.is_won
    second = election.stand()
    assert second.token > first.token
    election.resign()
    assert not Holder.objects.exists()


def test_run_calls_main_with_a_fence_and_again_once_the_lead_was_lost(standing):
    fences = []

    def main(fence):
        fences.append(fence)
        if len(fences) == 1:
            locks.force_release("leader:x")
            wait_until(lambda: not fence.is_valid)
        fence.check()
        return "done"

    assert leader.run(main, name="x", ttl=1) == "done"
    assert [fence.name for fence in fences] == ["leader:x"] * 2
    assert not Holder.objects.exists()
    with pytest.raises(ZeroDivisionError):
        leader.run(lambda fence: 1 / 0, name="x")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_fork_does_not_lead(standing):
    assert leader.election("x").stand()
    pid = os.fork()
    if not pid:
        os._exit(int(leader.election("x").is_won))
    assert os.waitpid(pid, 0)[1] == 0
    assert leader.election("x").is_won


def test_coroutine_functions_are_refused_with_words():
    async def work():
        """Never called."""

    class View:
        """As Django's asynchronous class-based views: called, it gives a coroutine."""

        def __init__(self):
            markcoroutinefunction(self)

        def __call__(self):
            return work()

    for function in (work, View()):
        with pytest.raises(TypeError, match="is a coroutine function: decorate what sync_to_async"):
            raftlog.only_on_leader(function)
        with pytest.raises(TypeError, match="is a coroutine function"):
            raftlog.retry_on_conflict(function)
        with pytest.raises(TypeError, match="is a coroutine function"):
            raftlog.idempotent("key")(function)
