"""Sessions: opened, expired, acknowledged, bounded; the same on every node and after a restart."""

import pytest

from raftlog.consensus.entries import COMMAND, OPEN_SESSION, client_header, client_payload
from raftlog.exceptions import ApplyStopped
from raftlog.replication import sessions as sessions_module
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.sessions import NONE_RESULT, SESSION_TTL, Result, Sessions, Stage
from raftlog.runtime.ports import APPLIED, REFUSED
from tests.replication.log import SESSION, START, apply_all, batch, dump, opened, told
from tests.replication.warehouse import commands
from tests.replication.warehouse.models import Item


def header(sequence, acknowledged_below=0, session=SESSION, kind=COMMAND):
    return client_header(client_payload(kind, session, sequence, acknowledged_below, b""))


def open_header(session=SESSION):
    return header(0, session=session, kind=OPEN_SESSION)


def done(at):
    return Result(APPLIED, at, NONE_RESULT)


class Tables:
    """In place of the database: the stage is taken over at once, or dropped."""

    def __init__(self):
        self.sessions = Sessions()
        self.stage = Stage(self.sessions)

    def commit(self):
        self.sessions.take(self.stage)
        self.stage = Stage(self.sessions)

    def rollback(self):
        self.stage = Stage(self.sessions)

    def run(self, at, log_time=0, **which):
        """One command; returns its status, and whether it was run."""
        answer = self.stage.admit(header(**which), log_time)
        if answer is None:
            self.stage.record(header(**which), done(at))
            return APPLIED, True
        return answer.status, False


@pytest.fixture
def tables():
    made = Tables()
    made.stage.open(open_header(), 1, 0)
    return made


@pytest.mark.parametrize("between", ["nothing", "commit"])
def test_a_repeat_is_not_run_again(tables, between):
    assert tables.run(2, sequence=1) == (APPLIED, True)
    if between == "commit":
        tables.commit()
    assert tables.run(3, sequence=1) == (APPLIED, False)
    assert tables.stage.admit(header(1), 0) == done(2)


def test_what_is_rolled_back_was_never_there(tables):
    tables.commit()
    tables.run(2, sequence=1, log_time=5)
    tables.rollback()
    assert tables.run(2, sequence=1) == (APPLIED, True)
    assert tables.sessions.committed[SESSION].last_log_time == 0
    assert not tables.sessions.committed[SESSION].results


def test_acknowledged_results_are_forgotten_and_a_late_copy_is_refused(tables):
    for sequence in (1, 2, 3):
        tables.run(sequence + 1, sequence=sequence)
    tables.commit()
    assert tables.run(5, sequence=4, acknowledged_below=3) == (APPLIED, True)
    assert tables.run(6, sequence=2) == (REFUSED, False)
    assert tables.run(7, sequence=3) == (APPLIED, False)
    tables.commit()
    assert sorted(tables.sessions.committed[SESSION].results) == [3, 4]
    assert tables.run(8, sequence=1) == (REFUSED, False)


def test_an_entry_that_acknowledges_itself_is_run_all_the_same(tables):
    assert tables.run(2, sequence=1, acknowledged_below=9) == (APPLIED, True)


def test_a_session_expires_by_log_time(tables):
    tables.run(2, sequence=1, log_time=SESSION_TTL)
    tables.commit()
    assert tables.run(3, sequence=2, log_time=2 * SESSION_TTL) == (APPLIED, True)
    assert tables.run(4, sequence=3, log_time=3 * SESSION_TTL + 1) == (REFUSED, False)
    tables.commit()
    assert tables.run(5, sequence=3, log_time=3 * SESSION_TTL + 1) == (REFUSED, False), "it stays expired"


def test_expired_sessions_are_removed_when_another_is_opened(tables):
    other = b"o" * 16
    tables.commit()
    tables.stage.open(open_header(other), 2, SESSION_TTL)
    tables.commit()
    assert set(tables.sessions.committed) == {SESSION, other}
    third = b"3" * 16
    tables.stage.open(open_header(third), 3, SESSION_TTL + 1)
    assert tables.stage.removed == {SESSION}
    tables.commit()
    assert set(tables.sessions.committed) == {other, third}


def test_opening_again_changes_nothing_but_the_age(tables):
    tables.run(2, sequence=1)
    tables.commit()
    assert tables.stage.open(open_header(), 7, 10) == done(1)
    assert tables.run(8, sequence=1, log_time=11) == (APPLIED, False)
    tables.commit()
    assert tables.sessions.committed[SESSION].last_log_time == 11


def test_unacknowledged_results_are_bounded(tables, monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_RESULTS", 3)
    for sequence in (1, 2, 3):
        assert tables.run(sequence, sequence=sequence)[1]
    assert tables.run(4, sequence=4) == (REFUSED, False)
    assert tables.run(4, sequence=3) == (APPLIED, False), "repeats are answered"
    tables.commit()
    assert tables.run(4, sequence=4) == (REFUSED, False)
    assert tables.run(5, sequence=5, acknowledged_below=2) == (APPLIED, True)


def test_sessions_are_bounded_and_the_one_idle_for_longest_goes(tables, monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 2)
    other, third = b"o" * 16, b"3" * 16
    tables.stage.open(open_header(other), 2, 1)
    tables.run(3, sequence=1, log_time=2)
    tables.commit()
    tables.stage.open(open_header(third), 4, 3)
    tables.commit()
    assert set(tables.sessions.committed) == {SESSION, third}


def test_a_sequence_that_the_database_cannot_hold_is_refused(tables):
    assert tables.run(2, sequence=2**63) == (REFUSED, False)


def test_the_tables_say_the_same_as_the_memory(database):
    """Whatever is done, a machine that reads the tables afresh knows the same."""
    machine = DatabaseStateMachine("default")
    log = opened()
    take = {}
    log.add(commands.add_item, name="nail", stock=50)
    for _ in range(4):
        take = log.add(commands.take, name="nail", quantity=1)
    log.add(commands.fail, kind="value")
    log.add(commands.take, name="nail", quantity=1, acknowledged_below=4)
    log.add(commands.take, name="nail", quantity=1, acknowledged_below=6)
    payloads = [*log.payloads, take]
    apply_all(machine, payloads, [6, 2, 1, 1])
    expired = START + SESSION_TTL + 1
    for at in (expired - 1, expired, expired + 5):
        again = DatabaseStateMachine("default")
        assert known(again) == known(machine)
        newcomer = client_payload(OPEN_SESSION, at.to_bytes(16, "big"), 0, 0, b"")
        machine.apply(batch([newcomer], machine.last_applied + 1, log_time=at))
    assert SESSION not in machine.sessions.committed
    assert not dump()["raftlog_sessionresult"]
    assert Item.objects.get().stock == 44


def known(machine):
    return {
        key: (s.opened_index, s.last_log_time, s.acknowledged_below, s.results)
        for key, s in machine.sessions.committed.items()
    }


def test_a_stopped_entry_has_not_touched_its_session(database):
    """The databases of two nodes that stand at one index are equal, also where one stopped there."""
    log = opened()
    log.add(commands.add_item, name="nail")
    log.add(commands.fail, kind="os", acknowledged_below=2)
    machine = DatabaseStateMachine("default")
    with pytest.raises(ApplyStopped, match="OSError"):
        apply_all(machine, log.payloads)
    assert dump()["raftlog_clientsession"] == [(SESSION, 3, START, 0)]
    assert [row[1] for row in dump()["raftlog_sessionresult"]] == [1]
    assert told(machine.apply(batch([log.payloads[3]], 5))[0]) == 4
