"""`raft threads`: what each thread of a node is doing."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.asking import ask
from raftlog.exceptions import RaftlogError
from raftlog.management.output import Output, table
from raftlog.management.raft.log import address_of
from raftlog.management.verbs import Verb, read_settings


class ThreadsVerb(Verb):
    name = "threads"
    help = "Show each thread of a node: what it is doing or waiting for, and since when."
    epilog = """\
Asks the running node. Threads of raftlog's own say what they do; of all others in the process the name is known, and
with --stacks where they are in the code. A thread that does one thing for long, or a stack that is always the same, is
where to look.

examples:
  manage.py raft threads
  manage.py raft threads --stacks                 with each one's stack, the innermost call last
  manage.py raft threads --node b --json

exit codes:
  0  shown
  1  the node does not answer
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stacks", action="store_true", help="show where in the code each one is")
        parser.add_argument("--node", metavar="ID", help="ask this member instead of the node of this host")
        parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the answer (default: 5)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        node_id = options["node"]
        try:
            address = address_of(settings, node_id) if node_id and node_id != settings.node_id else None
            asked = {"stacks": options["stacks"]}
            threads = ask(settings, "threads", asked, target=address, timeout=options["timeout"])
        except (RaftlogError, OSError) as error:
            raise CommandError(f"{type(error).__name__}: {error}") from error
        output.result(threads)
        if options["stacks"]:
            for thread in threads:
                output.line(f"{thread['name']}: {thread['doing'] or 'not the node itself'}", style="bold")
                for frame in thread["stack"]:
                    output.line(f"    {frame}")
        else:
            rows = [[each["name"], each["doing"], each["seconds"], each["native_id"]] for each in threads]
            output.show(table(["thread", "doing", "for seconds", "native id"], rows))
        return 0


VERB = ThreadsVerb
