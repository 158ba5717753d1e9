"""`raft lock`: run a command while a lock of the whole cluster is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.contrib.locks import exceptions
from raftlog.exceptions import RaftlogError
from raftlog.management.locking import add_command, command_of, is_done, prepare
from raftlog.management.output import Output
from raftlog.management.verbs import Verb


class LockVerb(Verb):
    name = "lock"
    help = "Run a command while holding a lock of the whole cluster."
    epilog = """\
Waits for the lock, in the order of those who ask, runs the command, and ends with its exit code. The lock is renewed
meanwhile. If it is lost all the same (no majority for most of --ttl), the command gets SIGTERM and then SIGKILL before
anybody else can have the lock, even where this process is stopped or killed. The command finds the fencing token in
RAFTLOG_FENCE. SIGTERM, SIGHUP and SIGINT are passed on.

One container of many runs the deployment step; the others wait for it, see that it is done, and skip it:

  manage.py raft lock deploy --once "$RELEASE" -- python manage.py migrate

Where the tables of locks are not there yet, they are made first (`migrate raftlog_locks`). A migration holds back
renewals: --ttl must be longer than twice the longest single migration.

examples:
  manage.py raft lock nightly --wait 0 -- python manage.py report     not where another host does it just now
  manage.py raft lock import --ttl 30 -- ./import.sh

exit codes:
  0 to 255  the command's (128 + N: ended by signal N; 127: it could not be started); 0 too where --once was done before
  75        the lock was not to be had within --wait; the command was not run
  76        the lock was lost, and the command was ended
  1         no node, no majority, a mistake in the arguments: the message says which
"""
    has_json = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("lock", metavar="NAME", help="the lock")
        parser.add_argument("--ttl", type=float, default=60.0, help="seconds after which a dead holder is forgotten")
        waiting = parser.add_mutually_exclusive_group()
        waiting.add_argument("--wait", type=float, help="seconds to wait for it (default: for ever)")
        waiting.add_argument("--nonblocking", action="store_const", const=0.0, dest="wait", help="as --wait 0")
        parser.add_argument("--once", metavar="KEY", help="run it once for each KEY, in the whole cluster")
        add_command(parser)

    def run(self, options: dict[str, Any], output: Output) -> int:
        def say(text: str) -> None:
            self.command.stderr.write(f"raft lock: {text}")

        try:
            return self._run(options, say)
        except (ValueError, RaftlogError) as error:
            raise CommandError(str(error)) from error

    def _run(self, options: dict[str, Any], say: Callable[[str], None]) -> int:
        from raftlog.contrib.locks import api
        from raftlog.contrib.locks.attempt import Wanted
        from raftlog.contrib.locks.running import NOT_HELD, Signals, Stopped, run_under

        name, key = options["lock"], options["once"]
        wanted = Wanted(name, options["ttl"], options["wait"])
        if key is not None:  # before the command is run, whose end could not be noted
            api.check_key(key)
        prepare(say)
        with Signals() as signals:
            try:
                with signals.end_waiting():
                    fence = api.take(wanted)
            except exceptions.LockNotAcquired as error:
                say(str(error))
                return NOT_HELD
            except Stopped as stopped:  # what was asked for is given up at the end of this process
                return 128 + stopped.number
            try:
                if key and is_done(fence.name, key):
                    say(f"{key!r} is done already")
                    return 0
                code = run_under(fence, command_of(options), signals, say=say)
                if key and code == 0:
                    api.complete(fence, key)
                return code
            finally:
                api.give_back(fence)


VERB = LockVerb
