"""`raft replace`: a node whose host or folder is gone makes room for another."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.consensus.configuration import Server
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
from raftlog.management.raft.add import incarnation_of
from raftlog.management.verbs import Verb, read_settings


class ReplaceVerb(Verb):
    name = "replace"
    help = "Put a new node in the place of a member whose host or folder is gone."
    epilog = f"""\
With another name, both changes are one step: the old member leaves in the moment in which the new one has caught up
and votes. A node that comes back under its old name with an emptied folder is not what it was, and may not vote as its
former self: the old incarnation is removed first, then the new one learns and becomes a voter.

Start the new node first, as for `raft add`; its MEMBERS lists the members that there are now.

examples:
  manage.py raft replace c ws://10.0.0.3:8000                 c again, with an empty folder
  manage.py raft replace c ws://10.0.0.9:8000 --by c2         another node instead

{EXIT_CODES}
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("node_id", help="the member that is gone")
        parser.add_argument("address", help="ADDRESS of the new node")
        parser.add_argument("--by", metavar="NODE_ID", help="NODE_ID of the new node (default: the same)")
        add_change_arguments(parser)

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        cluster = Cluster(settings)
        old, new, address = options["node_id"], options["by"] or options["node_id"], options["address"]
        was_voter = cluster.member(old)["voter"]
        before = cluster.configuration
        incarnation = incarnation_of(settings, new, address, before.cluster_id)
        server = Server(address, incarnation, before.servers[old].priority)
        if before.servers[old].incarnation == incarnation:
            raise CommandError(f"{old} at {address} is the member itself: nothing is to be replaced")
        without = before.without(old)
        target = without.with_server(new, server, voter=was_voter)
        refuse_lost_quorum(cluster, without if old == new and without.voters else target)
        question = f"Replace {old} by {new} at {address}? {tolerance(len(before.voters))} now."
        confirm(output, question, noinput=options["noinput"])
        steps = [target]
        if old == new and was_voter:
            if not without.voters:
                raise CommandError(f"{old} is the only voter: what is in its folder is all there is")
            steps = [without, target]
        for step in steps:
            cluster.change_to(step)
            cluster.follow(step, output, options["timeout"])
        output.result({"replaced": old, "by": new, "voters": target.voters, "learners": target.learners})
        output.line(f"{new} is in the place of {old}: {describe(target)}", style="green")
        return 0


VERB = ReplaceVerb
