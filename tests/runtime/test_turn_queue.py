"""The leader's side of the write turn (rule 15): who has it, who waits, what is held back, and for how long."""

import pytest

from raftlog.consensus.entries import COMMAND, KEY, OPEN_SESSION, RESERVE, SCHEMA, TRANSACTION, client_payload
from raftlog.runtime import turn_queue
from raftlog.runtime.turn_queue import FENCE_HOLD_LIMIT, HOLD_LIMIT, LEASE, REPEATED_WITHIN, TurnQueue

MINE, OTHERS = b"m" * 16, b"o" * 16


def payload(kind, session=OTHERS, sequence=1):
    return client_payload(kind, session, sequence, 0, b"")


def key(number=1, session=MINE):
    return payload(TRANSACTION, session, number)[KEY]


def ask(queue, asked, node_id="a", is_fence=False, is_renewal=False, now=0.0):
    return queue.ask(asked, node_id, is_fence=is_fence, is_renewal=is_renewal, now=now)


@pytest.fixture
def queue():
    return TurnQueue()


@pytest.fixture
def held(queue):
    """A queue whose turn is `key(1)`'s, granted at 0."""
    ask(queue, key(1))
    queue.grant(7, 0.0)
    return queue


@pytest.fixture
def fenced(queue):
    ask(queue, key(1), is_fence=True)
    queue.grant(7, 0.0)
    return queue


def test_the_turn_goes_to_those_who_ask_in_the_order_in_which_they_first_asked(queue):
    for number, node_id in ((1, "a"), (2, "b"), (3, "a"), (1, "a")):
        ask(queue, key(number), node_id)
    served = []
    while (holder := queue.grant(10 + len(served), 0.0)) is not None:
        served.append((holder.key, holder.node_id, holder.index))
        assert queue.grant(99, 0.0) is None
        queue.release(holder.key)
    assert served == [(key(1), "a", 10), (key(2), "b", 11), (key(3), "a", 12)]
    assert queue.is_idle


@pytest.mark.parametrize(
    ("kind", "session", "sequence", "by_turn", "by_fence"),
    [
        (TRANSACTION, OTHERS, 1, True, True),
        (SCHEMA, OTHERS, 1, True, True),
        (COMMAND, OTHERS, 1, False, True),
        (RESERVE, OTHERS, 1, False, False),
        (OPEN_SESSION, OTHERS, 0, False, False),
        (TRANSACTION, MINE, 1, False, False),
        (TRANSACTION, MINE, 2, True, False),  # another thread of the holder's process
        (COMMAND, MINE, 2, False, False),
    ],
)
def test_what_is_held_back(kind, session, sequence, by_turn, by_fence):
    entry = payload(kind, session, sequence)
    for is_fence, expected in ((False, by_turn), (True, by_fence)):
        queue = TurnQueue()
        assert not queue.holds_back(entry)
        ask(queue, key(1), is_fence=is_fence)
        queue.grant(7, 0.0)
        assert queue.holds_back(entry) is expected
        queue.release(key(1))
        assert not queue.holds_back(entry)


def test_an_ordinary_turn_ends_with_its_holders_entry_and_a_fence_does_not(queue):
    for number, is_fence in ((1, False), (2, True)):
        ask(queue, key(number), is_fence=is_fence)
        queue.grant(7, 0.0)
        queue.appended([payload(COMMAND), payload(TRANSACTION, MINE, 5)])
        assert queue.holder is not None
        queue.appended([payload(TRANSACTION, MINE, number)])
        assert (queue.holder is not None) is is_fence


def test_a_request_that_is_repeated_after_its_entry_is_not_a_new_one(held):
    held.appended([payload(TRANSACTION, MINE, 1)])
    ask(held, key(1))
    assert held.is_idle
    ask(held, key(2))
    assert held.grant(8, 0.0).key == key(2)


def test_a_renewal_that_comes_after_the_release_is_too_late(fenced):
    fenced.release(key(1))
    ask(fenced, key(1), is_fence=True, is_renewal=True)
    assert fenced.is_idle


@pytest.mark.parametrize(
    "end",
    [
        lambda queue: queue.release(key(1)),
        lambda queue: queue.node_lost("a"),
        lambda queue: queue.expire(LEASE),
        lambda queue: queue.forget(),
    ],
    ids=["released", "connection lost", "lease over", "leader changed"],
)
def test_it_ends(held, end):
    assert held.deadline == LEASE
    held.expire(LEASE - 0.01)
    held.node_lost("b")
    held.release(key(2))
    assert held.holder is not None
    end(held)
    assert held.is_idle


def test_a_renewal_prolongs_the_lease_and_a_repetition_is_answered_again(held):
    assert ask(held, key(1), is_renewal=True, now=2.0) is False
    assert held.deadline == 2.0 + LEASE
    assert ask(held, key(1), now=2.5) is True
    held.expire(2.0 + LEASE)
    assert held.holder is not None


def test_a_renewal_of_a_forgotten_turn_is_taken_up_for_a_fence_only_and_goes_first(queue):
    ask(queue, key(1))
    ask(queue, key(2), is_renewal=True)
    ask(queue, key(3), is_fence=True, is_renewal=True)
    assert list(queue.waiting) == [key(3), key(1)]


def test_who_does_not_ask_again_is_forgotten(held):
    ask(held, key(2), now=0.0)
    ask(held, key(3), "b", now=0.0)
    ask(held, key(2), now=1.0)
    held.expire(REPEATED_WITHIN)
    assert list(held.waiting) == [key(2)]
    held.node_lost("a")
    assert held.is_idle


def test_what_is_held_back_is_let_go_in_order_before_the_next_turn(held):
    first, second = payload(TRANSACTION, OTHERS, 1), payload(TRANSACTION, OTHERS, 2)
    held.hold([first], "b", 4, 0.1)
    held.hold([second], "", 0, 0.2)
    assert held.next_held() is None
    held.appended([payload(TRANSACTION, MINE, 1)])
    for expected in (first, second):
        assert held.next_held().payloads == [expected]
        held.taken()
    assert held.is_idle


def test_an_ordinary_turn_does_not_keep_others_waiting_for_long(held):
    ask(held, key(1), is_renewal=True, now=2.0)
    ask(held, key(1), is_renewal=True, now=4.0)
    held.hold([payload(TRANSACTION)], "b", 4, 0.5)
    assert held.expire(0.4 + HOLD_LIMIT) == []
    assert held.holder is not None
    assert held.expire(0.5 + HOLD_LIMIT) == []
    assert held.holder is None
    assert held.next_held() is not None


def test_an_ordinary_turn_has_an_end_where_others_wait_for_it(held):
    for now in range(1, int(2 * HOLD_LIMIT)):
        ask(held, key(1), is_renewal=True, now=now)
        ask(held, key(2), now=now)
        held.expire(now)
        assert held.holder is not None
    held.expire(2 * HOLD_LIMIT)
    assert held.holder is None


def test_a_fence_goes_on_and_refuses_what_has_waited_for_too_long(fenced):
    fenced.hold([payload(COMMAND)], "b", 4, 0.5)
    fenced.hold([payload(TRANSACTION)], "", 0, 3.0)
    for now in (2.0, 4.0, 6.0, 8.0):
        ask(fenced, key(1), is_fence=True, is_renewal=True, now=now)
        assert fenced.expire(now) == []
    assert fenced.deadline == 0.5 + FENCE_HOLD_LIMIT
    [refused] = fenced.expire(0.5 + FENCE_HOLD_LIMIT)
    assert refused.request_id == 4
    assert fenced.holder is not None
    assert fenced.expire(8.0 + LEASE) == []  # its lease is over: what is left is let go, not refused
    assert fenced.holder is None
    assert fenced.next_held().since == 3.0


def test_what_is_held_back_is_bounded(held, monkeypatch):
    monkeypatch.setattr(turn_queue, "MAX_HELD", 2)
    entry = payload(TRANSACTION)
    assert held.has_room([entry, entry])
    assert not held.has_room([entry] * 3)
    held.hold([entry], "b", 1, 0.0)
    assert not held.has_room([entry, entry])
    held.release(key(1))
    held.taken()
    assert held.has_room([entry, entry])
    monkeypatch.setattr(turn_queue, "MAX_HELD_BYTES", len(entry))
    assert held.has_room([entry])
    assert not held.has_room([entry, entry])
