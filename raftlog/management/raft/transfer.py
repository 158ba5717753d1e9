"""`raft transfer`: hand leadership to another node."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.management.members import EXIT_CODES, POLL_INTERVAL, Cluster
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.runtime import clock


class TransferVerb(Verb):
    name = "transfer"
    help = "Hand leadership to a named voter, or to the best."
    epilog = f"""\
Before the leader's host is taken down, say. Writes wait meanwhile, for less than an election timeout. The best is the
voter of the highest priority, then of the longest log, of those that are connected, have what is committed, and may
lead (`raft members`). Where a voter of higher priority is up, it gets leadership back after a while: `raft promote`.

examples:
  manage.py raft transfer
  manage.py raft transfer b

{EXIT_CODES}
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("node_id", nargs="?", default="", help="the voter that is to lead")
        parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for it (default: 10)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        cluster = Cluster(read_settings())
        before = cluster.leader_id
        if options["node_id"] == before:
            output.result({"leader_id": before, "changed": False})
            output.line(f"{before} leads already")
            return 0
        to = cluster.request("transfer", {"to": options["node_id"]})["to"]
        deadline = clock.monotonic() + options["timeout"]
        while cluster.leader_id == before:
            if clock.monotonic() >= deadline:
                raise CommandError(f"{to} did not take over within {options['timeout']:g} s; {before} still leads")
            clock.sleep(POLL_INTERVAL)
            cluster.refresh()
        output.result({"leader_id": cluster.leader_id, "changed": True})
        output.line(f"{cluster.leader_id} leads in term {cluster.status['current_term']}", style="green")
        return 0


VERB = TransferVerb
