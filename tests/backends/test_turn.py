"""The host's turn: writers of all threads and processes, one after the other; nobody keeps it for ever (rule 14)."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.db import transaction

from raftlog.backends.exceptions import TransactionTooLarge, TurnExpired
from raftlog.backends.sqlite3.transaction import State
from raftlog.backends.sqlite3.turn import Turn, Watchdog
from raftlog.runtime import clock

ALIAS = "replicated"
ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) "
    "INSERT INTO plain SELECT max(i), 0 FROM n"
)


def wait_for(condition, seconds=30.0):
    deadline = clock.monotonic() + seconds
    while not condition():
        assert clock.monotonic() < deadline, "it did not come to pass in time"
        clock.sleep(0.005)


def in_threads(count, work):
    errors = []

    def run():
        try:
            work()
        except Exception as error:  # noqa: BLE001 (it fails the test, in its own thread)
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []


def test_many_threads_increment_one_row(make_database):
    database = make_database()
    database.run("INSERT INTO worded VALUES ('total', 0)")

    def work():
        connection = database.connection.copy()
        try:
            for number in range(10):
                with connection.cursor() as cursor:
                    if number % 2:
                        cursor.execute("UPDATE worded SET n = n + 1 WHERE word = 'total'")
                        continue
                    cursor.execute("BEGIN")
                    cursor.execute("UPDATE worded SET n = n + 1 WHERE word = 'total'")
                    cursor.execute("SELECT n FROM worded")
                    cursor.execute("COMMIT")
        finally:
            connection.close()

    in_threads(4, work)
    assert database.run("SELECT n FROM worded") == [(40,)]
    database.assert_equal()


def test_the_turn_passes_between_processes(tmp_path):
    path = tmp_path / "db.sqlite3"
    mine = Turn(str(path), in_memory=False)
    mine.take()
    code = (
        "from raftlog.backends.sqlite3.turn import Turn\n"
        f"turn = Turn({str(path)!r}, in_memory=False)\n"
        "print('asks', flush=True); turn.take(); print('has it', flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "asks\n"
        assert mine.holder_pid() == os.getpid()
        mine.give_back()
        assert other.stdout.readline() == "has it\n"
        assert mine.holder_pid() == other.pid
        other.kill()  # the kernel gives the turn of a dead process back
        other.wait()
        mine.take()
    mine.close()


WRITER = """
import sys
from raftlog.backends.sqlite3.turn import Turn
turn = Turn(sys.argv[1], in_memory=False)
print("asks", flush=True)
turn.take()
print("has it", flush=True)
sys.stdin.readline()
turn.give_back()
"""


class Writer:
    """Another process that takes the turn, and gives it back when told."""

    def __init__(self, path) -> None:
        command = [sys.executable, "-c", WRITER, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "asks\n"

    def has_it(self) -> bool:
        return self.process.stdout.readline() == "has it\n"

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)


def is_blocked(pid) -> bool:
    """In flock(): the kernel lists it among those that wait for a lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any(line.split()[1] == "->" and f" {pid} " in line for line in lines)


needs_proc = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc/locks")


@needs_proc
def test_the_state_machine_goes_before_writers_that_wait(tmp_path):
    path = tmp_path / "db.sqlite3"
    first = Turn(str(path), in_memory=False)
    first.take()
    writers = [Writer(path) for _ in range(3)]
    wait_for(lambda: all(is_blocked(writer.process.pid) for writer in writers))
    apply = Turn(str(path), in_memory=False)
    apply.goes_first = True
    thread = threading.Thread(target=apply.take, daemon=True)
    thread.start()
    wait_for(lambda: apply.waiting_since)
    wait_for(lambda: is_blocked(os.getpid()))
    first.give_back()
    thread.join(30)
    assert apply.held  # and a writer that had had it before would still have it
    apply.give_back()
    for writer in writers:
        assert writer.has_it()
        writer.end()
    first.close()
    apply.close()


@needs_proc
def test_who_has_the_clusters_turn_does_not_queue_for_the_hosts(tmp_path):
    """Those in the queue would only wait for it at their commit."""
    path = tmp_path / "db.sqlite3"
    first = Turn(str(path), in_memory=False)
    first.take()
    writers = {writer.process.pid: writer for writer in [Writer(path) for _ in range(6)]}
    wait_for(lambda: all(map(is_blocked, writers)))
    urgent = Turn(str(path), in_memory=False)
    thread = threading.Thread(target=lambda: urgent.take(ahead=True), daemon=True)
    thread.start()
    wait_for(lambda: is_blocked(os.getpid()))
    first.give_back()
    before = 0
    while not urgent.held:  # the first of the queue may have it before, and is told to end
        if (writer := writers.pop(first.holder_pid(), None)) is not None:
            assert writer.has_it()
            writer.end()
            before += 1
    assert before <= 3
    urgent.give_back()
    for writer in writers.values():
        assert writer.has_it()
        writer.end()
    first.close()
    urgent.close()


@needs_proc
def test_a_holder_that_is_stopped_is_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("raftlog.backends.sqlite3.turn.LONG_WAIT", 0.2)
    path = tmp_path / "db.sqlite3"
    writer = Writer(path)
    assert writer.has_it()
    os.kill(writer.process.pid, signal.SIGSTOP)
    apply = Turn(str(path), in_memory=False)
    apply.goes_first = True
    assert apply.waits_for() == ""
    thread = threading.Thread(target=apply.take, daemon=True)
    thread.start()
    try:
        wait_for(apply.waits_for)
        assert f"process {writer.process.pid} for" in apply.waits_for()
        assert f"it is stopped: kill -CONT {writer.process.pid}" in apply.waits_for()
        wait_for(lambda: f"process {writer.process.pid}" in caplog.text)
    finally:
        os.kill(writer.process.pid, signal.SIGCONT)
    writer.end()
    thread.join(30)
    assert apply.held
    assert apply.waits_for() == ""
    apply.close()


def test_the_watchdog_is_woken_for_an_earlier_deadline_than_it_waits_for(tmp_path):
    watchdog = Watchdog()
    turns = [Turn(str(tmp_path / "db"), in_memory=False) for _ in range(3)]
    heard = []
    watchdog.watch(turns[0], 600.0, lambda: heard.append("late"))
    wait_for(lambda: watchdog._wakes_at < float("inf"))
    watchdog.watch(turns[1], 0.01, lambda: heard.append("early"))
    watchdog.watch(turns[2], 0.01, lambda: heard.append("forgotten"))
    watchdog.forget(turns[2])
    wait_for(lambda: heard == ["early"])


def test_a_forked_child_leaves_its_parents_turn_alone(tmp_path):
    turn = Turn(str(tmp_path / "db.sqlite3"), in_memory=False)
    turn.take()
    pid = os.fork()
    if not pid:
        try:
            assert not turn.held
            turn.close()
            other = Turn(str(tmp_path / "db.sqlite3"), in_memory=False)
            other.goes_first = True
            os._exit(0 if not other._turn.try_take() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert turn.held
    turn.close()


def test_the_turn_of_a_connection_that_nobody_closed_is_given_back(make_database):
    database = make_database()

    def work():
        with database.connection.copy().cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO plain VALUES (1, 1)")

    in_threads(1, work)
    gc.collect()

    def another():
        with database.connection.copy().cursor() as cursor:
            cursor.execute("INSERT INTO plain VALUES (2, 2)")

    in_threads(1, another)
    assert database.run("SELECT a FROM plain") == [(2,)]


def test_a_transaction_that_keeps_its_turn_too_long_is_rolled_back(make_database):
    database = make_database(turn_limit=0.05)
    before = database.entries
    with pytest.raises(TurnExpired, match=r"0\.05 s"), transaction.atomic(ALIAS):  # noqa: PT012 (one block)
        database.run("INSERT INTO plain VALUES (1, 1)")
        wait_for(lambda: database.control.state is State.DEAD)
        other = database.connection.copy()
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO plain VALUES (2, 2)")
        other.close()
        for sql in ("SELECT 1", "INSERT INTO plain VALUES (3, 3)"):
            with pytest.raises(TurnExpired):
                database.run(sql)
    assert database.run("SELECT a FROM plain") == [(2,)]
    assert database.entries == before + 1
    with pytest.raises(TurnExpired), transaction.atomic(ALIAS):  # noqa: PT012 (one block)
        database.run("INSERT INTO plain VALUES (4, 4)")
        wait_for(lambda: database.control.state is State.DEAD)
    database.run("INSERT INTO plain VALUES (5, 5)")
    assert database.run("SELECT a FROM plain ORDER BY a") == [(2,), (5,)]
    database.assert_equal()


def test_a_statement_that_runs_too_long_is_interrupted(make_database):
    database = make_database(turn_limit=0.05)
    with pytest.raises(TurnExpired), transaction.atomic(ALIAS):
        database.run(ENDLESS)
    with pytest.raises(TurnExpired):
        database.run(ENDLESS)
    database.run("INSERT INTO plain VALUES (5, 5)")
    assert database.run("SELECT a FROM plain") == [(5,)]
    database.assert_equal()


def test_a_transaction_beyond_the_limit_says_what_fits(make_database):
    database = make_database()
    control = database.control
    control.max_bytes = control.capture.sink.max_bytes = 20_000
    rows = (
        "INSERT INTO plain WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
        "SELECT i, %s FROM n"
    )
    for count, size in ((100_000, 10), (200, 200)):
        with pytest.raises(TransactionTooLarge, match=r"batch_size=\d+"):
            database.run(rows, count, "x" * size)
    database.run(rows, 50, "x" * 200)
    assert database.run("SELECT count(*) FROM plain") == [(50,)]
    database.assert_equal()
