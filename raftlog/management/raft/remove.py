"""`raft remove`: take nodes out of the cluster."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.management.members import (
    EXIT_CODES,
    Cluster,
    add_change_arguments,
    confirm,
    describe,
    refuse_lost_quorum,
    tolerance,
)
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings


class RemoveVerb(Verb):
    name = "remove"
    help = "Take nodes out of the cluster; they learn so and stop."
    epilog = f"""\
The nodes may be up or down. A leader that is removed hands leadership over first. Refused where the voters that stay
would have no majority that can be reached.

examples:
  manage.py raft remove d
  manage.py raft remove d e --noinput     both in one step

{EXIT_CODES}
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("node_ids", nargs="+", metavar="node_id", help="NODE_ID of a member")
        add_change_arguments(parser)

    def run(self, options: dict[str, Any], output: Output) -> int:
        cluster = Cluster(read_settings())
        before = target = cluster.configuration
        node_ids = sorted(set(options["node_ids"]))
        for node_id in node_ids:
            cluster.member(node_id)
            target = target.without(node_id)
        if not target.voters:
            raise CommandError("refused: nobody would be left to vote")
        refuse_lost_quorum(cluster, target)
        question = (
            f"Remove {', '.join(node_ids)}? {tolerance(len(before.voters))}; then {tolerance(len(target.voters))}."
        )
        confirm(output, question, noinput=options["noinput"])
        cluster.change_to(target)
        cluster.follow(target, output, options["timeout"])
        output.result({"removed": node_ids, "voters": target.voters, "learners": target.learners})
        output.line(f"{', '.join(node_ids)} left the cluster: {describe(target)}", style="green")
        return 0


VERB = RemoveVerb
