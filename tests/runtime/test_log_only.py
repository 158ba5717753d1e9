"""The state machine that only counts."""

import pytest

from raftlog.consensus.entries import COMMAND, KEY, NO_OP_PAYLOAD, OPEN_SESSION, EntryBatch, Run, client_payload
from raftlog.runtime import log_only
from raftlog.runtime.log_only import NONE_RESULT, LogOnlyStateMachine
from raftlog.runtime.ports import APPLIED, Outcome

SESSION = bytes(16)


def payload(sequence: int) -> bytes:
    return client_payload(COMMAND if sequence else OPEN_SESSION, SESSION, sequence, 0, b"body")


def batch(first_index: int, payloads: list[bytes]) -> EntryBatch:
    return EntryBatch(first_index, [Run(len(payloads), 1, 0)], payloads)


def test_each_client_entry_is_answered_and_a_repeat_with_the_index_of_its_first_copy():
    machine = LogOnlyStateMachine()
    payloads = [NO_OP_PAYLOAD, payload(0), payload(1), payload(1), payload(2)]
    outcomes = machine.apply(batch(1, payloads))
    assert outcomes == [
        Outcome(payload(sequence)[KEY], APPLIED, index, NONE_RESULT)
        for sequence, index in ((0, 2), (1, 3), (1, 3), (2, 5))
    ]
    assert machine.last_applied == 5
    assert machine.apply(batch(6, [payload(2)]))[0].index == 5


def test_a_batch_must_begin_where_the_last_one_ended():
    with pytest.raises(ValueError, match="entries from 3 on given, 0 was applied last"):
        LogOnlyStateMachine().apply(batch(3, [payload(1)]))


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(log_only, "REMEMBERED_KEYS", 10)
    machine = LogOnlyStateMachine()
    for sequence in range(1, 101):
        machine.apply(batch(sequence, [payload(sequence)]))
        assert len(machine._recent) + len(machine._older) <= 20
    assert machine.apply(batch(101, [payload(95)]))[0].index == 95
    assert machine.apply(batch(102, [payload(1)]))[0].index == 102
