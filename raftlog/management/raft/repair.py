"""`raft repair`: bring back what this host has lost, or has other than the majority."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from raftlog.management.output import Output
from raftlog.management.repair_database import repair_database
from raftlog.management.repair_log import repair_log
from raftlog.management.verbs import Verb, read_settings


class RepairVerb(Verb):
    name = "repair"
    help = "Mend this host's damaged log, or with --database a database that differs from the majority's."
    epilog = """\
Stop the node first, and look for the cause.

A log: for a node that refuses to start with LogDamaged, or whose status says that its log is damaged. Without --execute
nothing is changed: it shows what is damaged, which entries are lost, and what would be done. With --execute the damaged
files are kept, in DATA_DIR/damaged-…, and the log is cut before the first damaged entry. Then start the node as ever.
Since it may have acknowledged what it lost, it neither votes nor is counted until it is there again: status says
"repairing: does not vote …". That takes a leader, elected by the others; what a single server, or a majority of them,
has lost cannot be repaired like this.

A database: for a node that `raft status` or `raft digest` says differs. Stop the application of this host, too. The
node makes its database anew from its own log, which is checked before, or from an image of a healthy peer. An SQLite
file is kept beside the new one; tables of PostgreSQL are dropped. Where the cause is a command that would do it again
when the log is applied again, say --from-peers.

examples:
  manage.py raft repair                     is the log damaged, and what would be done
  manage.py raft repair --execute           asks, then does it; then `raft run`
  manage.py raft repair --execute --noinput --json
  manage.py raft repair --database
  manage.py raft repair --database --from-peers

exit codes:
  0  nothing is damaged, or it is done: start the node
  1  the log is damaged (without --execute), or refused: nothing was changed, and the message says why
  2  this log cannot be repaired: the message says what to do instead
"""

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--database", action="store_true", help="make the database anew")
        parser.add_argument(
            "--from-peers", action="store_true", help="the database's rows: from a peer, not the own log"
        )
        what.add_argument("--execute", action="store_true", help="mend the log, after asking")
        parser.add_argument(
            "--noinput", "--yes", action="store_true", dest="noinput", help="do not ask before it is done"
        )
        parser.add_argument("--timeout", type=float, default=2.0, help="seconds to wait for each peer (default: 2)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        if not options["database"]:
            return repair_log(settings, options, output)
        output.result(repair_database(settings, output, from_peers=options["from_peers"], noinput=options["noinput"]))
        return 0


VERB = RepairVerb
