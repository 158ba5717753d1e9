"""`raft promote` and its like: what a member is, without anybody coming or going."""

from __future__ import annotations

from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser

from raftlog.consensus.configuration import Configuration
from raftlog.management.members import (
    EXIT_CODES,
    Cluster,
    add_change_arguments,
    describe,
    refuse_lost_quorum,
    tolerance,
)
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings


class PromoteVerb(Verb):
    name = "promote"
    help = "Make a learner a voter, a voter a learner, or change a member's address or priority."
    epilog = f"""\
Leadership moves by itself to the voter of the highest priority that is up, has everything and may lead, once that has
been so for ten election timeouts. Priorities are 0 at first, and equal ones decide nothing.

examples:
  manage.py raft promote d                                a voter, once it has caught up
  manage.py raft promote d --learner                      a learner: it counts for nothing any more
  manage.py raft promote d --address ws://10.0.0.7:8000   where the others reach it from now on
  manage.py raft promote d --priority 10                  it is to lead, whenever it can

{EXIT_CODES}
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("node_id", help="NODE_ID of a member")
        parser.add_argument("--learner", action="store_true", help="make it a learner")
        parser.add_argument("--address", help="its new address")
        parser.add_argument("--priority", type=int, help="its new priority, an integer (at first: 0)")
        add_change_arguments(parser)

    def run(self, options: dict[str, Any], output: Output) -> int:
        cluster = Cluster(read_settings())
        before = cluster.configuration
        target = self._target(cluster, before, options)
        if target == before:
            raise CommandError(f"it is so already: {describe(before)}")
        refuse_lost_quorum(cluster, target)
        cluster.change_to(target)
        cluster.follow(target, output, options["timeout"])
        node_id = options["node_id"]
        priority = target.priority_of(node_id)
        members = {"voters": target.voters, "learners": target.learners}
        output.result({"node_id": node_id, "priority": priority, **members})
        output.line(f"{describe(target)}: {tolerance(len(target.voters))}; {node_id} has priority {priority}", "green")
        return 0

    def _target(self, cluster: Cluster, before: Configuration, options: dict[str, Any]) -> Configuration:
        node_id = options["node_id"]
        member = cluster.member(node_id)
        given = {name: options[name] for name in ("address", "priority") if options[name] is not None}
        voter = False if options["learner"] else member["voter"] if given else True
        target = before.with_server(node_id, msgspec.structs.replace(before.servers[node_id], **given), voter=voter)
        if not target.voters:
            raise CommandError("refused: nobody would be left to vote")
        return target


VERB = PromoteVerb
