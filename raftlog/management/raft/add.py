"""`raft add`: take a node into the cluster."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog import conf
from raftlog.asking import fetch_status
from raftlog.consensus.configuration import Server
from raftlog.exceptions import RaftlogError
from raftlog.management.members import EXIT_CODES, Cluster, add_change_arguments, describe, tolerance
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings


class AddVerb(Verb):
    name = "add"
    help = "Take nodes into the cluster: they learn first, and become voters once they have caught up."
    epilog = f"""\
First start the node on its host: NODE_ID is its name, ADDRESS where the others reach it, MEMBERS the members of the
running cluster without it, SECRET_KEYS theirs; its folder and database are empty. It then waits to be taken in.

Adding it never costs the cluster its majority: until it has caught up it counts for nothing, and if it makes no
progress for 30 seconds the change is given up.

examples:
  manage.py raft add d ws://10.0.0.4:8000
  manage.py raft add d ws://10.0.0.4:8000 e ws://10.0.0.5:8000    both in one change
  manage.py raft add d ws://10.0.0.4:8000 --learner               it gets everything and never votes

{EXIT_CODES}
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("node_id", help="NODE_ID of the new node")
        parser.add_argument("address", help="its ADDRESS, ws://host:port or wss://host:port")
        parser.add_argument(
            "more", nargs="*", metavar="node_id address", help="further nodes, taken in by the same change"
        )
        parser.add_argument("--learner", action="store_true", help="as a learner, until `raft promote`")
        parser.add_argument("--priority", type=int, default=0, help="who is to lead: see `raft promote` (default: 0)")
        add_change_arguments(parser)

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        cluster = Cluster(settings)
        before = target = cluster.configuration
        added = pairs([options["node_id"], options["address"], *options["more"]])
        for node_id, address in added.items():
            incarnation = incarnation_of(settings, node_id, address, before.cluster_id)
            known = before.servers.get(node_id)
            if known is not None and known.incarnation != incarnation:
                raise CommandError(
                    f"{node_id} is a member with another folder than the one at {address}: "
                    f"raft replace {node_id} {address}"
                )
            server = Server(address, incarnation, options["priority"])
            target = target.with_server(node_id, server, voter=not options["learner"])
        names = ", ".join(added)
        if target == before:
            raise CommandError(f"{names}: a member already: {describe(before)}")
        output.line(f"{tolerance(len(before.voters))}; then {tolerance(len(target.voters))}")
        cluster.change_to(target)
        cluster.follow(target, output, options["timeout"])
        output.result({"added": list(added), "voters": target.voters, "learners": target.learners})
        parts = "learns" if options["learner"] else "votes"
        output.line(f"{names}: added, and {parts}: {describe(target)}", style="green")
        return 0


def pairs(words: list[str]) -> dict[str, str]:
    """{node id: address}. Raises CommandError where one is missing or named twice."""
    added = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2:
        raise CommandError(f"{words[-1]} has no address: write node_id address, for each node")
    if 2 * len(added) != len(words):
        raise CommandError(f"a node is named twice: {' '.join(words)}")
    return added


def incarnation_of(settings: conf.Settings, node_id: str, address: str, cluster_id: str) -> str:
    """The incarnation of the node that answers at `address`. Raises CommandError where it cannot be taken in."""
    try:
        conf.parse_address(address)
    except ValueError as error:
        raise CommandError(f"the address {address!r}: {error}; write ws://host:port or wss://host:port") from error
    try:
        status = fetch_status(settings, address, timeout=5.0)
    except (RaftlogError, OSError) as error:
        raise CommandError(f"no node answers at {address}: {error}. Start `manage.py raft run` there first.") from error
    if status["node_id"] != node_id:
        raise CommandError(f"the node at {address} is {status['node_id']}, not {node_id}")
    if status["cluster_id"] not in ("", cluster_id):
        raise CommandError(
            f"the node at {address} belongs to another cluster ({status['cluster_id']}): empty its folder and its "
            "database, and list this cluster's members in its RAFTLOG['MEMBERS']"
        )
    return str(status["incarnation"])


VERB = AddVerb
