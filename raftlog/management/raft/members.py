"""`raft members`: who is in the cluster, and what change is under way."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from raftlog.management.members import Cluster, describe, tolerance
from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb, read_settings

COLUMNS = ("node", "part", "leads", "priority", "may lead", "connected", "lag", "address")


class MembersVerb(Verb):
    name = "members"
    help = "Show the members as the leader knows them: voters, learners, and a change under way."
    epilog = """\
A voter counts for majorities; a learner gets the log and counts for nothing. A node that is added learns first, and
becomes a voter by itself once it has caught up.

columns:
  priority   of the voters that may lead, the one of the highest priority is to (raft promote ID --priority N)
  may lead   no: its disk is full or does not answer, or its database is not the log's (raft status says what)

examples:
  manage.py raft members
  manage.py raft members --abandon       give up a change whose new voters still learn
  manage.py raft members --json

exit codes:
  0  shown
  1  no leader answers, or nothing is to be given up

see also: raft add, raft remove, raft replace, raft promote, raft transfer
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--abandon", action="store_true", help="give up the change that is under way")

    def run(self, options: dict[str, Any], output: Output) -> int:
        cluster = Cluster(read_settings())
        if options["abandon"]:
            cluster.request("abandon_change", {})
            cluster.refresh()
        configuration = cluster.configuration
        rows = []
        for node_id, member in cluster.members.items():
            part = "voter" if member["voter"] else "learner"
            if node_id in configuration.goal_voters and node_id not in configuration.voters:
                part = "learner, to become a voter"
            elif configuration.goal_members and node_id not in configuration.goal_members:
                part = f"{part}, to leave"
            is_leader = node_id == cluster.leader_id
            connected = is_leader or member["connected"]
            fit = member["may_lead"] if member["voter"] else None
            rows.append(
                [node_id, part, is_leader, member["priority"], fit, connected, member["lag"], member["address"]]
            )
        output.result(
            {"leader_id": cluster.leader_id, "index": cluster.status["configuration_index"]}
            | {"configuration": cluster.status["configuration"], "members": cluster.members}
        )
        output.line(f"{tolerance(len(configuration.voters))}: {describe(configuration)}", style="bold")
        output.show(table(COLUMNS, rows))
        return 0


VERB = MembersVerb
