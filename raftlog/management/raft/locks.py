"""`raft locks`: who holds which lock, who waits, and taking one away."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.exceptions import RaftlogError
from raftlog.management.locking import require_app
from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb


class LocksVerb(Verb):
    name = "locks"
    help = "List the locks: holders, waiters, fencing tokens, when they expire; or take one away."
    epilog = """\
As this host's database has them. `expires in` counts from the last command of any lock: the clock of the locks stands
still between them. What is below zero is free for the next who asks.

--release NAME takes the lock from its holder, who learns it at his next renewal only (within a third of its ttl). Until
then two may hold it, so do it only where the holder is known to be gone, or is protected by his fencing token.

examples:
  manage.py raft locks
  manage.py raft locks --json | jq '.locks[] | select(.state == "holds")'
  manage.py raft locks --release nightly

exit codes:
  0  shown, or released
  1  nothing to release, not confirmed, or no node answers
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--release", metavar="NAME", help="take this lock from its holders; asks first")
        parser.add_argument("--token", type=int, default=0, help="with --release: only from the holder with this token")
        parser.add_argument("--noinput", "--yes", action="store_true", dest="noinput", help="do not ask")

    def run(self, options: dict[str, Any], output: Output) -> int:
        from raftlog.contrib.locks.tables import listing

        require_app()
        try:
            found = listing()
            if options["release"]:
                return self._release(found, options, output)
        except RaftlogError as error:
            raise CommandError(str(error)) from error
        output.result({"locks": found})
        rows = [
            (
                each["name"],
                each["state"],
                str(each.get("token", "")),
                each["who"],
                each["since"][:19].replace("T", " "),
                f"{each['expires_in']:.1f} s",
            )
            for each in found
        ]
        if rows:
            output.show(table(("lock", "", "token", "who", "since (UTC)", "expires in"), rows))
        else:
            output.line("no locks are held")
        return 0

    def _release(self, found: list[dict[str, Any]], options: dict[str, Any], output: Output) -> int:
        from raftlog.contrib.locks.tables import force_release

        name, token = options["release"], options["token"]
        held = [
            each for each in found if each["name"] == name and each["state"] == "holds" and token in (0, each["token"])
        ]
        if not held:
            raise CommandError(f"nobody holds {name!r}" + (f" with token {token}" if token else ""))
        if not options["noinput"]:
            for each in held:
                output.line(f"{name}: held by {each['who']} since {each['since']}, token {each['token']}")
            if input("Take it away? The holder may go on until his next renewal. [y/N] ").strip().lower() != "y":
                raise CommandError("not confirmed; nothing was done")
        count = force_release(name, token)
        output.result({"released": count})
        output.line(f"{name}: taken away from {count}", style="green")
        return 0


VERB = LocksVerb
