"""`raft queue`: lengths, the oldest, dead letters; trying them again, removing them."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db.utils import Error as DatabaseError

from raftlog.management.members import confirm
from raftlog.management.output import Output, table
from raftlog.management.raft.worker import require_queue
from raftlog.management.verbs import Verb

STATES = ("READY", "SUCCESSFUL", "FAILED")


class QueueVerb(Verb):
    name = "queue"
    help = "Show the task queue of raftlog.contrib.queue; try dead letters again, or remove tasks."
    epilog = """\
A dead letter is a task that failed as often as it may. What is shown is this host's database.

columns:
  due       ready, and their time has come
  later     ready at a later time (run_after, or after a failure)
  oldest    seconds for which the first of those that are due has been

examples:
  manage.py raft queue
  manage.py raft queue retry                              all dead letters
  manage.py raft queue retry --queue mail
  manage.py raft queue retry 01934c5e-7a40-7c1e-9d2f-0242ac120002
  manage.py raft queue purge --state FAILED --noinput
  manage.py raft queue --json | jq '.queues[].due'

exit codes:
  0  shown or done
  1  the app is not installed, no such task, or nothing could be written
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", nargs="?", default="show", choices=["show", "retry", "purge"])
        parser.add_argument("ids", nargs="*", metavar="ID", help="of tasks (default: all)")
        parser.add_argument("--queue", default="", help="only of this queue")
        parser.add_argument("--state", default="FAILED", choices=STATES, help="what to purge (default: FAILED)")
        parser.add_argument("--limit", type=int, default=20, help="dead letters to show (default: 20)")
        parser.add_argument(
            "--noinput", "--yes", action="store_true", dest="noinput", help="do not ask before it is done"
        )

    def run(self, options: dict[str, Any], output: Output) -> int:
        require_queue()
        try:
            if options["action"] == "show":
                return _show(options, output)
            return _change(options, output)
        except ValidationError as error:
            raise CommandError(f"no id of a task: {'; '.join(error.messages)}") from error
        except DatabaseError as error:
            raise CommandError(f"nothing was changed or shown: {error}") from error


def _show(options: dict[str, Any], output: Output) -> int:
    from raftlog.contrib.queue import reports

    queues = [row for row in reports.lengths() if options["queue"] in ("", row["queue"])]
    dead = [row for row in reports.dead_letters(options["limit"]) if options["queue"] in ("", row["queue"])]
    output.result({"queues": queues, "dead_letters": dead})
    columns = ["queue", "due", "later", "running", "failed", "successful", "oldest"]
    output.show(table(columns, [[row[column] for column in columns] for row in queues]))
    if dead:
        columns = ["id", "name", "queue", "attempts", "finished_at", "error"]
        output.show(table(columns, [[row[column] for column in columns] for row in dead], title="dead letters"))
    return 0


def _change(options: dict[str, Any], output: Output) -> int:
    from raftlog.contrib.queue import reports

    is_retry = options["action"] == "retry"
    state = "FAILED" if is_retry else options["state"]
    rows = reports.selected(queue=options["queue"], ids=options["ids"] or None, state=state)
    found = rows.count()
    if options["ids"] and found < len(set(options["ids"])):
        raise CommandError(f"only {found} of {len(set(options['ids']))} are {state} tasks of this database")
    if found and not is_retry:
        confirm(output, f"Remove {found} {state} tasks?", noinput=options["noinput"])
    count = (reports.retry if is_retry else reports.purge)(rows) if found else 0
    output.result({"retried" if is_retry else "purged": count})
    output.line(f"{count} {'will be tried again' if is_retry else 'removed'}")
    return 0


VERB = QueueVerb
