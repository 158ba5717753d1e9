"""`raft status`: who leads, who lags, who cannot be reached; from any host, also while nobody leads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.management.base import CommandParser
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from raftlog.conf import Settings
from raftlog.exceptions import RaftlogError
from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb, read_settings
from raftlog.node import fetch_status
from raftlog.runtime import clock

HAS_LEADER, NO_LEADER, UNREACHABLE = 0, 1, 2

# (address of a member or None for the local node) -> its status. Raises RaftlogError, OSError.
Ask = Callable[[str | None], dict[str, Any]]


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


def collect(settings: Settings, ask: Ask) -> dict[str, Any]:
    """Ask everyone and say what it adds up to, as plain data."""
    local, _ = _ask(ask, None)
    members = dict(settings.members)
    if local is not None and local["members"]:
        members = {node_id: member["address"] for node_id, member in local["members"].items()}
    answers: dict[str, tuple[dict[str, Any] | None, str]] = {}
    if local is not None:
        answers[local["node_id"]] = (local, "")
    others = [node_id for node_id in members if node_id not in answers]
    if others:
        with ThreadPoolExecutor(max_workers=min(16, len(others))) as pool:
            asked = pool.map(lambda node_id: _ask(ask, members[node_id]), others)
            answers |= dict(zip(others, asked, strict=True))
    return summarize(members, answers)


def _ask(ask: Ask, target: str | None) -> tuple[dict[str, Any] | None, str]:
    try:
        return ask(target), ""
    except (RaftlogError, OSError) as error:
        return None, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def summarize(members: dict[str, str], answers: dict[str, tuple[dict[str, Any] | None, str]]) -> dict[str, Any]:
    """The report: the leader of the newest term, the voters that answer, and a row for each member."""
    statuses = {node_id: status for node_id, (status, _) in answers.items() if status is not None}
    leaders = [status for status in statuses.values() if status["role"] == "leader"]
    leader = max(leaders, key=lambda status: int(status["current_term"]), default=None)
    newest = leader or max(statuses.values(), key=lambda status: int(status["current_term"]), default=None)
    known = newest["members"] if newest else {}
    voters = [node_id for node_id in members if not known or known.get(node_id, {}).get("voter", False)]
    answering = [node_id for node_id in voters if node_id in statuses]
    majority = len(answering) > len(voters) // 2
    exit_code = UNREACHABLE if not statuses else HAS_LEADER if leader and majority else NO_LEADER
    return {
        "leader_id": leader["node_id"] if leader else None,
        "term": newest["current_term"] if newest else None,
        "cluster_id": newest["cluster_id"] if newest else None,
        "voters": len(voters),
        "voters_answering": len(answering),
        "majority": majority,
        "exit_code": exit_code,
        "members": [_row(node_id, address, answers, leader) for node_id, address in members.items()],
    }


def _row(
    node_id: str,
    address: str,
    answers: dict[str, tuple[dict[str, Any] | None, str]],
    leader: dict[str, Any] | None,
) -> dict[str, Any]:
    status, error = answers.get(node_id, (None, "was not asked"))
    seen_by_leader = leader["members"].get(node_id, {}) if leader else {}
    row: dict[str, Any] = {
        "node_id": node_id,
        "address": address,
        "reachable": status is not None,
        "error": error,
        "last_contact": seen_by_leader.get("last_contact"),
        "lag": seen_by_leader.get("lag"),
    }
    names = ("role", "current_term", "leader_id", "commit_index", "last_applied", "last_index", "healthy", "problems")
    row |= {name: status.get(name) if status else None for name in (*names, "warnings", "divergence")}
    row["behind"] = max(0, leader["commit_index"] - row["last_applied"]) if leader and status else None
    return row


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
    return Group(Text(sentence(report), style="bold"), table(columns, rows))


def sentence(report: dict[str, Any]) -> str:
    votes = f"{report['voters_answering']} of {report['voters']} voters answer"
    if report["exit_code"] == UNREACHABLE:
        return "No member answers: is `manage.py raft run` running anywhere?"
    if report["leader_id"] is None:
        why = "an election is going on" if report["majority"] else "no majority, so nothing can be written"
        return f"No leader ({votes}: {why})."
    warning = "" if report["majority"] else ": no majority, so nothing can be written"
    return f"{report['leader_id']} leads in term {report['term']} ({votes}{warning})."


VERB = StatusVerb
