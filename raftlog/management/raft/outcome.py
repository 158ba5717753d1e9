"""`raft outcome`: how a command or transaction ended whose caller never heard."""

from __future__ import annotations

from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from raftlog.backends.outcome import outcome
from raftlog.exceptions import OutcomeUnknown, SessionExpired
from raftlog.management.output import Output
from raftlog.management.verbs import Verb
from raftlog.replication.describe import plain

APPLIED: Final = 0
FAILED: Final = 1
UNKNOWN: Final = 2
FORGOTTEN: Final = 3


class OutcomeVerb(Verb):
    name = "outcome"
    help = "How a proposal ended whose outcome was unknown: by its proposal id, or by its idempotency key."
    epilog = """\
Looks into this host's database and asks nobody. "Not so far" is no "never": it may be on its way still; ask again, or
end the doubt by trying again under the same id or key, which is safe.

examples:
  manage.py raft outcome 2f1c…e0:17              the proposal_id of an OutcomeUnknown, as it stands in its message
  manage.py raft outcome 2f1c…e0:18:transaction --timeout 10
  manage.py raft outcome --key order-4711
  manage.py raft outcome --key 8e03978e --scope "user 7" --json

exit codes:
  0  it was applied; its result is printed
  1  it failed: it changed nothing, and never will
  2  it is not known: not applied on this host so far
  3  it is not known any more: its session has ended, or its result was acknowledged
"""

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("id", nargs="?", metavar="ID", default="", help="the proposal's id")
        which.add_argument("--key", default="", help="an idempotency key")
        parser.add_argument("--scope", default="", help="whose key it is (default: none)")
        parser.add_argument("--timeout", type=float, default=0.0, help="seconds to wait for it (default: 0)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        if options["scope"] and not options["key"]:
            raise CommandError("--scope goes with --key")
        try:
            result = outcome(options["id"], options["timeout"], key=options["key"], scope=options["scope"])
        except OutcomeUnknown as error:  # a transaction's is a DatabaseError, too
            return self._say(output, UNKNOWN, "unknown", error, "yellow")
        except SessionExpired as error:
            return self._say(output, FORGOTTEN, "forgotten", error, "yellow")
        except ValueError as error:
            raise CommandError(str(error)) from error
        except Exception as error:
            if isinstance(error, DatabaseError) and not is_verdict(error):
                raise CommandError(f"the database cannot be asked: {error}") from error
            return self._say(output, FAILED, "failed", error, "red")
        output.result({"outcome": "applied", "result": plain(result)})
        output.line(f"applied: {plain(result)!r}", style="green")
        return APPLIED

    def _say(self, output: Output, code: int, name: str, error: Exception, style: str) -> int:
        output.result({"outcome": name, "error": type(error).__name__, "text": str(error)})
        output.line(f"{name}: {type(error).__name__}: {error}", style=style)
        return code


def is_verdict(error: DatabaseError) -> bool:
    """Whether it is what the transaction or command ended with, and not the answer to our question."""
    return error.__cause__ is None


VERB = OutcomeVerb
