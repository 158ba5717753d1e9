"""Apply stops for a moment right behind one entry, and not for ever."""

import threading

import pytest

from raftlog.consensus.entries import COMMAND, KEY, NO_OP_PAYLOAD, EntryBatch, Run, client_payload
from raftlog.runtime import pins as module
from raftlog.runtime.pins import Pins


def payload(sequence):
    return client_payload(COMMAND, b"s" * 16, sequence, 0, b"x")


@pytest.fixture
def batch():
    return EntryBatch(10, [Run(4, 1, 0)], [NO_OP_PAYLOAD, payload(1), payload(2), payload(3)])


def test_without_pins_batches_stay_whole(batch):
    pins = Pins()
    assert pins.cut(batch) is batch
    pins.applied(batch)


def test_a_batch_ends_with_the_pinned_entry_and_apply_waits_there(batch):
    pins = Pins()
    pin = pins.add(payload(2)[KEY])
    cut = pins.cut(batch)
    assert (cut.first_index, cut.last_index) == (10, 12)
    thread = threading.Thread(target=pins.applied, args=(cut,))
    thread.start()
    assert pin.reached.wait(60)
    assert pin.index == 12
    pin.let_go()
    thread.join(60)
    assert not thread.is_alive()
    assert pins.cut(batch) is batch


def test_apply_waits_within_a_bound(batch, monkeypatch):
    monkeypatch.setattr(module, "MAX_HOLD", 0.0)
    pins = Pins()
    pin = pins.add(payload(1)[KEY])
    pins.applied(pins.cut(batch))
    assert pin.index == 11


def test_a_pin_that_was_removed_holds_nothing(batch):
    pins = Pins()
    pins.remove(pins.add(payload(1)[KEY]))
    assert pins.cut(batch) is batch
