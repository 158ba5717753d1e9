"""`raft leave`: this host's database becomes a stock Django database again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connections
from django.db.utils import Error as DjangoDatabaseError

from raftlog.disaster.adopting import leave
from raftlog.disaster.emptying import now_stamp
from raftlog.exceptions import RaftlogError
from raftlog.management.members import confirm
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.node_process import is_listening

STOCK = {"sqlite": "django.db.backends.sqlite3", "postgresql": "django.db.backends.postgresql"}


class LeaveVerb(Verb):
    name = "leave"
    help = "Take raftlog out of this host's database, which Django's own ENGINE then opens as any other."
    epilog = """\
The project's tables stay as they are; raftlog's own go (and its functions and triggers in PostgreSQL), and the folder
of the log is set aside. Stop the node, and everything else that uses the database, first; where the cluster goes on
without this host, `raft remove` it before.

examples:
  manage.py raft leave
  manage.py raft leave --noinput --json

exit codes:
  0  done: it says what to change in the settings
  1  refused or failed, with the reason
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--noinput", "--yes", action="store_true", dest="noinput", help="do not ask first")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        if is_listening(settings):
            raise CommandError(f"the node of this host ({settings.node_id}) is running: stop it first")
        vendor = connections[settings.database].vendor
        name = connections[settings.database].settings_dict["NAME"]
        confirm(output, f"Take raftlog out of {name}? It is replicated no more.", noinput=options["noinput"])
        try:
            done = leave(settings, now_stamp())
        except (RaftlogError, DjangoDatabaseError, OSError) as error:
            raise CommandError(str(error)) from error
        for line in done:
            output.line(line)
        engine = STOCK[vendor]
        output.line(
            f"Now set the ENGINE of DATABASES[{settings.database!r}] to {engine!r}, and take raftlog out of "
            "MIDDLEWARE, DATABASE_ROUTERS and INSTALLED_APPS.",
            style="green",
        )
        output.result({"node_id": settings.node_id, "done": done, "engine": engine})
        return 0


VERB = LeaveVerb
