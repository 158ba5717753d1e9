"""The ledger hands out each reference once and knows the longest time without an acknowledgement."""

import pytest

from demo_site.demo import ledger as module
from demo_site.demo.ledger import Ledger


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    moment = [0.0]
    monkeypatch.setattr(module.clock, "monotonic", lambda: moment[0])
    return moment


def test_each_reference_is_taken_once():
    ledger = Ledger(3)
    taken = [ledger.take() for _ in range(4)]
    assert taken[3] is None
    assert len(set(taken[:3])) == 3


def test_payments_have_references_of_their_own():
    ledger = Ledger(3, payments=1)
    assert [ledger.take("payment"), ledger.take("payment")] == ["payment-000001", None]
    assert [ledger.take() for _ in range(3)] == ["transfer-000001", "transfer-000002", None]


def test_every_ending_counts_as_an_answer_but_only_one_is_an_acknowledgement():
    ledger = Ledger(3)
    ledger.acknowledge("x")
    ledger.refuse("y")
    ledger.give_up("z", TimeoutError("no answer"))
    assert ledger.answered_count == 3
    assert ledger.acknowledged == {"x"}
    assert ledger.refused == {"y"}
    assert ledger.unknown == {"z"}
    assert ledger.errors == ["z: TimeoutError: no answer"]


def test_the_longest_gap_counts_only_where_it_overlaps_the_window(clock):
    ledger = Ledger(10)
    for moment in (0.0, 5.0, 5.1, 5.9, 6.0, 9.0):
        clock[0] = moment
        ledger.acknowledge(str(moment))
    assert ledger.longest_gap(5.2, 6.5) == pytest.approx(3.0)  # 6.0 to 9.0 begins in it
    assert ledger.longest_gap(5.2, 5.8) == pytest.approx(0.8)
    assert ledger.longest_gap(4.0, 4.5) == pytest.approx(5.0)  # it lies inside 0.0 to 5.0
    assert ledger.longest_gap(9.5, 9.9) == 0.0
