"""`raft only-on-leader`: keep a command running on exactly one host of the cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from django.core.management.base import CommandError, CommandParser

from raftlog.asking import fetch_status
from raftlog.exceptions import RaftlogError
from raftlog.management.locking import add_command, command_of, require_app
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.runtime import clock

if TYPE_CHECKING:
    from raftlog.contrib.locks.fence import Fence
    from raftlog.contrib.locks.running import Signals

Say = Callable[[str], None]

TTL: Final = 15.0  # seconds
ONCE_TTL: Final = 90.0  # longer than the minute of cron
HEAD_START: Final = 1.0  # seconds that the host of the raft leader gets
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds before a command that has ended is started again
LONG_RUN: Final = 60.0  # seconds after which an end is not one of a series
LOOK_INTERVAL: Final = 0.1


class OnlyOnLeaderVerb(Verb):
    name = "only-on-leader"
    help = "Keep a command running on exactly one host: the one that wins an election of its own."
    epilog = """\
Start it on every host (systemd, supervisor, a container): one of them runs the command, the others wait. It is started
again when it ends, after 1 to 60 seconds. Where its host dies, another one starts it within about --ttl seconds. Where
the election is lost (the host is cut off), it gets SIGTERM and then SIGKILL before another host can win, even where
this process is stopped or killed. It finds a number that grows from host to host in RAFTLOG_FENCE.

With --once it is run if this host leads, else nothing is done and the exit code is 0: for cron. The host that ran it
last leads for --ttl seconds more (default: 90), so it stays on one host, and runs once though all hosts' clocks
differ by some seconds. Where an earlier run has not ended, it is not run either.

examples:
  manage.py raft only-on-leader -- celery -A shop beat
  manage.py raft only-on-leader --name mails -- python manage.py send_mails
  * * * * * manage.py raft only-on-leader --once -- python manage.py tick

exit codes:
  0         told to stop by a signal, and the command ended; with --once: run and well, or not run since another leads
  76        with --once: the election was lost, and the command was ended
  1         a mistake in the arguments, or the tables are missing; with --once: no node, no majority
  0 to 255  with --once: the command's (128 + N: ended by signal N; 127: it could not be started)
"""
    has_json = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", default="leader", help="of the election: one for each command (default: leader)")
        parser.add_argument("--ttl", type=float, help=f"seconds (default: {TTL:g}; with --once {ONCE_TTL:g})")
        parser.add_argument("--once", action="store_true", help="run it once if this host leads, and end")
        add_command(parser)

    def run(self, options: dict[str, Any], output: Output) -> int:
        from raftlog.contrib.locks.running import Signals, Stopped
        from raftlog.contrib.locks.tables import require_tables

        def say(text: str) -> None:
            self.command.stderr.write(f"raft only-on-leader: {text}")

        require_app()
        try:
            require_tables()
            with Signals() as signals:
                if options["once"]:
                    return run_once(options["name"], options["ttl"] or ONCE_TTL, command_of(options), signals, say)
                keep_running(options["name"], options["ttl"] or TTL, command_of(options), signals, say)
        except Stopped:
            return 0
        except (ValueError, RaftlogError) as error:
            raise CommandError(str(error)) from error
        return 0


def keep_running(name: str, ttl: float, command: list[str], signals: Signals, say: Say) -> None:
    """Until a signal comes."""
    from raftlog.contrib.leader.elections import lock_name
    from raftlog.contrib.locks import api
    from raftlog.contrib.locks.attempt import Wanted

    wanted = Wanted(lock_name(name), ttl)
    while not signals.received:
        with signals.end_waiting():
            if not leads_here():
                clock.sleep(HEAD_START)
            fence = api.take(wanted)
        say(f"this host leads {name!r} (token {fence.token})")
        try:
            run_again_and_again(fence, command, signals, say)
        finally:
            api.give_back(fence)


def run_again_and_again(fence: Fence, command: list[str], signals: Signals, say: Say) -> None:
    """Until the lock is lost, or a signal comes."""
    from raftlog.contrib.locks.running import run_under

    pause = FIRST_PAUSE
    while fence.is_valid and not signals.received:
        began = clock.monotonic()
        code = run_under(fence, command, signals, say=say)
        if signals.received or not fence.is_valid:
            return
        pause = FIRST_PAUSE if clock.monotonic() - began >= LONG_RUN else pause
        say(f"{command[0]} ended with {code}; it is started again after {pause:g} s")
        until = clock.monotonic() + pause
        while clock.monotonic() < until and fence.is_valid and not signals.received:
            clock.sleep(LOOK_INTERVAL)
        pause = min(pause * 2, LAST_PAUSE)


def run_once(name: str, ttl: float, command: list[str], signals: Signals, say: Say) -> int:
    """If this host leads, and no earlier run goes on."""
    from raftlog.contrib.leader.elections import lock_name
    from raftlog.contrib.locks import LockNotAcquired, api
    from raftlog.contrib.locks.attempt import Wanted
    from raftlog.contrib.locks.keeper import keeper
    from raftlog.contrib.locks.running import run_under

    # One owner for all runs of this host: who holds it already goes on with it.
    owner = hashlib.blake2b(f"{read_settings().node_id}\0{name}".encode(), digest_size=16).hexdigest()
    try:
        with signals.end_waiting():
            lead = api.take(Wanted(lock_name(name), ttl, wait=0), owner)
    except LockNotAcquired:
        return 0
    try:
        with signals.end_waiting():
            fence = api.take(Wanted(f"{lock_name(name)}:run", TTL, wait=0))
        try:
            return run_under(fence, command, signals, say=say)
        finally:
            api.give_back(fence)
    except LockNotAcquired:
        return 0
    finally:
        keeper.forget(lead)  # and not released: this host leads on until it expires


def leads_here() -> bool:
    """Whether this host's node leads the log, as far as it says."""
    try:
        status = fetch_status(read_settings(), None, timeout=1.0)
    except (RaftlogError, OSError):
        return False
    return bool(status["role"] == "leader")


VERB = OnlyOnLeaderVerb
