"""The simulation's state machine: sessions recognise repeats, and state, sessions and index move together."""

import random

import pytest

from raftlog.consensus.entries import COMMAND, NO_OP_PAYLOAD, OPEN_SESSION, EntryBatch, Run, client_payload
from raftlog.runtime.ports import APPLIED, REFUSED
from raftlog.testing.kv_machine import CHECKPOINT_EVERY, KeyValueMachine, command_body, decode_answer

SESSION = b"s" * 16


def batch(first_index, *payloads):
    return EntryBatch(first_index, [Run(len(payloads), 1, 1)], list(payloads))


def opened():
    machine = KeyValueMachine()
    machine.apply(batch(1, NO_OP_PAYLOAD, client_payload(OPEN_SESSION, SESSION, 0, 0, b"")))
    return machine


def append(sequence, item, below=0):
    return client_payload(COMMAND, SESSION, sequence, below, command_body("k", "append", item))


def test_a_repeat_gets_the_recorded_answer_and_changes_nothing():
    machine = opened()
    (first,) = machine.apply(batch(3, append(1, "x")))
    (second,) = machine.apply(batch(4, append(1, "x")))
    assert decode_answer(first.result) == decode_answer(second.result) == ("x",)
    assert machine.read("k") == ("x",)
    assert machine.last_applied == 4


def test_an_unknown_session_and_a_forgotten_sequence_are_refused():
    machine = opened()
    stranger = client_payload(COMMAND, b"t" * 16, 1, 0, command_body("k", "append", "y"))
    outcomes = machine.apply(batch(3, stranger, append(1, "x"), append(2, "z", below=2), append(1, "x")))
    assert [outcome.status for outcome in outcomes] == [REFUSED, APPLIED, APPLIED, REFUSED]
    assert machine.read("k") == ("x", "z")


def test_entries_are_applied_in_order_only():
    with pytest.raises(AssertionError):
        opened().apply(batch(9, NO_OP_PAYLOAD))


def test_after_a_power_failure_state_and_index_are_of_one_moment():
    seen = set()
    for seed in range(20):
        machine = opened()
        for number in range(CHECKPOINT_EVERY + 5):
            machine.apply(batch(3 + number, append(1 + number, number)))
        machine.lose_power(random.Random(seed))
        assert len(machine.read("k")) == machine.last_applied - 2
        seen.add(machine.last_applied)
    assert len(seen) == 2
