"""`raft lock`, `raft locks` and `raft only-on-leader`, with real commands of the shell."""

import json
import os
import signal
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from raftlog.contrib import locks
from raftlog.contrib.locks import api, attempt, running, warden
from raftlog.contrib.locks.models import Done, Holder, Waiter
from raftlog.management import locking
from raftlog.management.raft import only_on_leader
from raftlog.runtime import clock
from tests.contrib.locks import wait_until


def raft(*arguments):
    """Exit code, output, errors."""
    out, err = StringIO(), StringIO()
    try:
        call_command("raft", *arguments, stdout=out, stderr=err)
    except SystemExit as ended:
        return ended.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_a_command_runs_while_the_lock_is_held_and_its_exit_code_is_ours(lock_node, tmp_path):
    told = tmp_path / "told"
    code, _, _ = raft(
        "lock", "x", "--ttl", "5", "--", "sh", "-c", f"echo $RAFTLOG_LOCK $RAFTLOG_FENCE > {told}; exit 7"
    )
    assert code == 7
    name, token = told.read_text().split()
    assert name == "x"
    assert int(token) > 0
    assert not Holder.objects.exists()


@pytest.mark.parametrize(("command", "code"), [("kill -9 $$", 137), ("exit 0", 0), ("exit 255", 255)])
def test_exit_codes_are_those_of_a_shell(lock_node, command, code):
    assert raft("lock", "x", "--", "sh", "-c", command)[0] == code


def test_a_command_that_is_not_there_is_127(lock_node, capfd):
    assert raft("lock", "x", "--", "no-such-command")[0] == 127
    assert "no-such-command: No such file or directory" in capfd.readouterr().err


def test_options_after_the_dashes_belong_to_the_command(lock_node):
    code, _, _ = raft("lock", "x", "--", "sh", "-c", 'test "$1 $2" = "--ttl --"', "sh", "--ttl", "--")
    assert code == 0


def test_a_lock_that_is_not_to_be_had_is_75_and_nothing_is_run(lock_node, tmp_path):
    held = api.take(attempt.Wanted("x", label="somebody"))
    code, _, errors = raft("lock", "x", "--wait", "0.1", "--", "touch", str(tmp_path / "ran"))
    assert code == 75
    assert "held by somebody" in errors
    assert raft("lock", "x", "--nonblocking", "--", "touch", str(tmp_path / "ran"))[0] == 75
    assert not (tmp_path / "ran").exists()
    api.give_back(held)


@pytest.mark.parametrize("key", ["", "k" * 201], ids=["empty", "long"])
def test_a_key_that_cannot_be_noted_is_refused_before_the_command_runs(lock_node, tmp_path, key):
    with pytest.raises(CommandError, match=rf"key of a step has {len(key)} characters; give it 1 to 200"):
        raft("lock", "deploy", "--once", key, "--", "touch", str(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


def test_a_step_is_run_once_for_each_key_and_again_where_it_failed(lock_node, tmp_path):
    log = tmp_path / "log"
    step = ["lock", "deploy", "--once", "v1", "--", "sh", "-c"]
    assert raft(*step, f"echo failed >> {log}; exit 3")[0] == 3
    assert raft(*step, f"echo done >> {log}")[0] == 0
    code, _, errors = raft(*step, f"echo again >> {log}")
    assert code == 0
    assert "'v1' is done already" in errors
    assert raft("lock", "deploy", "--once", "v2", "--", "sh", "-c", f"echo v2 >> {log}")[0] == 0
    assert log.read_text().split() == ["failed", "done", "v2"]
    assert sorted(Done.objects.values_list("key", flat=True)) == ["v1", "v2"]


def test_a_command_whose_lock_is_lost_gets_sigterm_then_sigkill_and_76(lock_node, tmp_path):
    log = tmp_path / "log"
    script = f"trap 'echo term >> {log}' TERM; echo started >> {log}; while true; do sleep 0.05; done"

    def lose():
        wait_until(log.exists)
        lock_node.unavailable = True

    thread = threading.Thread(target=lose)
    thread.start()
    began = clock.monotonic()
    code, _, errors = raft("lock", "x", "--ttl", "2", "--", "sh", "-c", script)
    took = clock.monotonic() - began
    thread.join()
    row = Holder.objects.get(name="x")
    lock_node.unavailable = False
    assert code == 76
    assert log.read_text().split()[:2] == ["started", "term"]
    assert took >= 1
    assert row.ttl == 2_000_000, "it is still there: nobody else could have had it"
    assert "was lost, and sh ended for it" in errors


def test_signals_are_passed_on(lock_node, tmp_path):
    log = tmp_path / "log"
    script = f"trap 'echo term >> {log}; exit 4' TERM; echo started >> {log}; while true; do sleep 0.05; done"

    def terminate():
        wait_until(log.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    code, _, _ = raft("lock", "x", "--", "sh", "-c", script)
    thread.join()
    assert code == 4
    assert log.read_text().split() == ["started", "term"]
    assert not Holder.objects.exists()


def test_a_signal_ends_waiting_and_leaves_the_queue(lock_node):
    held = api.take(attempt.Wanted("x"))

    def terminate():
        wait_until(Waiter.objects.exists)
        connection.close()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert raft("lock", "x", "--", "true")[0] == 128 + signal.SIGTERM
    thread.join()
    wait_until(lambda: not Waiter.objects.exists())
    api.give_back(held)


def test_the_list_and_taking_away(lock_node, monkeypatch):
    assert raft("locks")[1] == "no locks are held\n"
    held = api.take(attempt.Wanted("nightly", label="shop-1"))
    assert "shop-1" in raft("locks")[1]
    (row,) = json.loads(raft("locks", "--json")[1])["locks"]
    assert (row["name"], row["state"], row["token"]) == ("nightly", "holds", held.token)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    with pytest.raises(CommandError, match="not confirmed"):
        raft("locks", "--release", "nightly")
    with pytest.raises(CommandError, match=f"nobody holds 'nightly' with token {held.token + 1}"):
        raft("locks", "--release", "nightly", "--token", str(held.token + 1))
    assert "taken away from 1" in raft("locks", "--release", "nightly", "--noinput")[1]
    assert not Holder.objects.exists()
    with pytest.raises(CommandError, match="nobody holds 'nightly'"):
        raft("locks", "--release", "nightly", "--noinput")
    api.give_back(held)


def test_mistakes_are_told_in_words(lock_node, monkeypatch):
    with pytest.raises(CommandError, match=r"ttl of the lock 'x' is 0.1 s"):
        raft("lock", "x", "--ttl", "0.1", "--", "true")
    monkeypatch.setattr(locking.apps, "is_installed", lambda name: False)
    for verb in (["lock", "x", "--", "true"], ["locks"], ["only-on-leader", "--", "true"]):
        with pytest.raises(CommandError, match=r"add 'raftlog.contrib.locks' to INSTALLED_APPS"):
            raft(*verb)


# The warden alone


def start_warden(tmp_path, script, *, grace="0.2"):
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", warden.__file__, str(read_end), grace, "1", "sh", "-c", script],
        pass_fds=[read_end],
    )
    os.close(read_end)
    return process, write_end


def say(pipe, seconds):
    os.write(pipe, f"{clock.monotonic() + seconds}\n".encode())


STUBBORN = "trap 'echo term >> {log}' TERM; echo started >> {log}; while true; do sleep 0.02; done"


@pytest.mark.parametrize("how", ["silent", "gone"])
def test_the_warden_ends_the_command_where_its_parent_is_stopped_or_dead(tmp_path, how):
    log = tmp_path / "log"
    process, pipe = start_warden(tmp_path, STUBBORN.format(log=log))
    say(pipe, 60)
    wait_until(log.exists)
    if how == "silent":
        say(pipe, 0.5)
    else:
        os.close(pipe)
    assert process.wait(60) == warden.LOST == running.LOST
    assert log.read_text().split()[:2] == ["started", "term"]
    if how == "silent":
        os.close(pipe)


def test_the_warden_ends_what_the_command_has_started_too(tmp_path):
    log = tmp_path / "log"
    process, pipe = start_warden(tmp_path, f"sleep 600 & echo $! > {log}.new; mv {log}.new {log}")
    say(pipe, 60)
    assert process.wait(60) == 0
    os.close(pipe)
    pid = int(log.read_text())
    wait_until(lambda: is_gone(pid))


def is_gone(pid):
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


# Keeping a command running


def test_a_command_that_ends_is_started_again_until_a_signal_comes(lock_node, tmp_path, monkeypatch):
    monkeypatch.setattr(only_on_leader, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(only_on_leader, "leads_here", lambda: True)
    log = tmp_path / "log"

    def terminate():
        wait_until(lambda: log.exists() and len(log.read_text().split()) >= 3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    code, _, errors = raft("only-on-leader", "--ttl", "5", "--", "sh", "-c", f"echo $RAFTLOG_FENCE >> {log}; sleep 0.1")
    thread.join()
    assert code == 0
    assert len(set(log.read_text().split())) == 1, "the lead is kept from run to run"
    assert "sh ended with 0; it is started again after 0.05 s" in errors
    assert not Holder.objects.exists()


def test_once_runs_where_this_host_leads_and_leads_on_afterwards(lock_node, tmp_path):
    log = tmp_path / "log"
    run = ["only-on-leader", "--once", "--name", "tick", "--", "sh", "-c", f"echo ran >> {log}"]
    assert raft(*run)[0] == 0
    assert raft(*run)[0] == 0
    assert log.read_text().split() == ["ran", "ran"]
    lead = Holder.objects.get()
    assert lead.name == "leader:tick"
    assert lead.ttl == 90_000_000
    assert raft(*run[:-1], "exit 9")[0] == 9
    locks.force_release("leader:tick")
    other = api.take(attempt.Wanted("leader:tick", ttl=5))
    assert raft(*run)[0] == 0
    assert log.read_text().split() == ["ran", "ran"], "another host leads"
    api.give_back(other)
    running_one = api.take(attempt.Wanted("leader:tick:run", ttl=5))
    assert raft(*run)[0] == 0
    assert log.read_text().split() == ["ran", "ran"], "an earlier run goes on"
    api.give_back(running_one)
