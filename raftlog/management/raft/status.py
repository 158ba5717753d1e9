"""`raft status`: who leads, who lags, who cannot be reached; from any host, also while nobody leads."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb, read_settings
from raftlog.observing.view import Ask, collect, health, sentence
from raftlog.runtime import clock


class StatusVerb(Verb):
    name = "status"
    help = "Show every member: role, term, indices, lag, and whether there is a leader."
    epilog = """\
Asks the node of this host and then every member directly, so that it works from any host and while there is no leader.
The members are those that the log knows, or those of RAFTLOG["MEMBERS"] where the local node is down.

columns:
  applied   last index whose effects are in that node's database
  behind    committed entries that it has not applied yet
  contact   seconds since the leader heard from it

examples:
  manage.py raft status
  manage.py raft status --watch            refreshed every second; Ctrl-C ends it
  manage.py raft status --json | jq .leader_id

exit codes:
  0  there is a leader, and a majority of the voters answers
  1  there is not
  2  no member answers
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--watch", action="store_true", help="show it again every second")
        parser.add_argument("--timeout", type=float, default=2.0, help="seconds to wait for each node (default: 2)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()

        def ask(target: str | None) -> dict[str, Any]:
            return fetch_status(settings, target, timeout=options["timeout"])

        if options["watch"]:
            return watch(settings, ask, output)
        report = collect(settings, ask)
        show(report, output)
        return int(report["exit_code"])


def watch(settings: Settings, ask: Ask, output: Output) -> int:
    """Until Ctrl-C. In a terminal the table is redrawn in place; elsewhere one follows the other."""
    report = collect(settings, ask)
    try:
        if not output.is_terminal:
            while True:
                show(report, output)
                clock.sleep(1)
                report = collect(settings, ask)
        with Live(rendered(report), console=output.console, auto_refresh=False) as live:
            while True:
                live.update(rendered(report), refresh=True)
                clock.sleep(1)
                report = collect(settings, ask)
    except KeyboardInterrupt:
        return int(report["exit_code"])


def show(report: dict[str, Any], output: Output) -> None:
    output.result(report)
    output.show(rendered(report))


def rendered(report: dict[str, Any]) -> RenderableType:
    """A table, and a sentence that says whether the cluster can write."""
    columns = ["node", "role", "term", "committed", "applied", "behind", "contact", "address", "problems"]
    rows = [
        [
            row["node_id"],
            row["role"] or "unreachable",
            row["current_term"],
            row["commit_index"],
            row["last_applied"],
            row["behind"],
            row["last_contact"],
            row["address"],
            row["error"] or "; ".join([*(row["problems"] or []), *(row["warnings"] or [])]),
        ]
        for row in report["members"]
    ]
    return Group(Text(f"{sentence(report)} {health(report)}", style="bold"), table(columns, rows))


VERB = StatusVerb
