"""`raft init --adopt`: a database that has data becomes the first state of a cluster."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connections
from django.db.utils import Error as DjangoDatabaseError

from raftlog.disaster.adopting import AdoptError, adopt, project_tables
from raftlog.exceptions import RaftlogError
from raftlog.management.members import confirm
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.node_process import is_listening


class InitVerb(Verb):
    name = "init"
    help = "Make a database that has data the first state of a cluster, of which this host is the only member at first."
    epilog = """\
A cluster whose databases are empty needs no command: start its first members. Where one host has a database that Django
made without raftlog, set its ENGINE to raftlog's, end all other processes that use it, and adopt it there. Rows stay
where they are; raftlog's own tables are made beside them. Take a copy first, as before any such step.

The other hosts start with empty folders and databases, and MEMBERS that names this host; `raft add` takes each in, and
it gets an image of the database.

examples:
  manage.py raft init --adopt
  manage.py raft run                                       here
  manage.py raft add b ws://10.0.0.2:8000                  for each other host

exit codes:
  0  done
  1  refused or failed, with the reason
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--adopt", action="store_true", help="the data in the database is the first state")
        parser.add_argument("--noinput", "--yes", action="store_true", dest="noinput", help="do not ask first")

    def run(self, options: dict[str, Any], output: Output) -> int:
        if not options["adopt"]:
            raise CommandError("say --adopt; a cluster whose databases are empty is begun by `raft run` on its members")
        settings = read_settings()
        if is_listening(settings):
            raise CommandError(f"the node of this host ({settings.node_id}) is running: stop it first")
        self.command.check()
        if settings.state_machine != "database":
            raise CommandError(f"STATE_MACHINE is {settings.state_machine!r}: there is no database to adopt")
        try:
            tables = project_tables(settings.database)
            if not tables:
                raise AdoptError(f"DATABASES[{settings.database!r}] has no tables: there is nothing to adopt")
            name = connections[settings.database].settings_dict["NAME"]
            confirm(
                output,
                f"Make {name}, with {len(tables)} tables, the first state of the cluster {settings.cluster}?",
                noinput=options["noinput"],
            )
            configuration = adopt(settings)
        except (RaftlogError, DjangoDatabaseError, OSError) as error:
            raise CommandError(str(error)) from error
        output.line(
            f"{settings.node_id} is the cluster {configuration.cluster_id}, with {len(tables)} tables.", "green"
        )
        output.line("Now `manage.py raft run` here; then start the others, empty, and `raft add` them.")
        output.result({"node_id": settings.node_id, "cluster_id": configuration.cluster_id, "tables": tables})
        return 0


VERB = InitVerb
