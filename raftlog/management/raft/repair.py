"""`raft repair`: bring back what this host has lost or has other than the majority."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.management.output import Output
from raftlog.management.repair_database import repair_database
from raftlog.management.verbs import Verb, read_settings


class RepairVerb(Verb):
    name = "repair"
    help = "Heal this host's database from the log or the other nodes, where it differs from the majority's."
    epilog = """\
For a node that `raft status` or `raft digest` says differs. Find and mend the cause first. Then, on its host, stop the
node and the application, repair, and start the node again: it makes its database anew from its own log, which is
checked before, or from an image of a healthy peer. The old database is kept beside the new one.

examples:
  manage.py raft repair --database
  manage.py raft repair --database --noinput --json

exit codes:
  0  done; start the node
  1  refused: nothing was changed, and the message says why
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--database", action="store_true", help="make the database anew")
        parser.add_argument(
            "--noinput", "--yes", action="store_true", dest="noinput", help="do not ask before it is done"
        )

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        if not options["database"]:
            raise CommandError("say what is to be repaired: --database")
        output.result(repair_database(settings, output, noinput=options["noinput"]))
        return 0


VERB = RepairVerb
