"""`raft digest`: do all nodes hold the same rows? Each hashes them at the same entry."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from raftlog.exceptions import RaftlogError
from raftlog.management import digest_report
from raftlog.management.digests import ClusterDigest, MemberDigest, find_members
from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb, read_settings
from raftlog.replication.describe import plain, shorten


class DigestVerb(Verb):
    name = "digest"
    help = "Compare the rows of all nodes: each hashes every replicated table at the same entry of the log."
    epilog = """\
An entry is proposed; each node takes a snapshot of its database when it has applied just that entry, goes on, and
reads every row of the snapshot. Writes go on meanwhile. A node that stands still (it has diverged, or waits for newer
code) is compared where it stands. Of what differs it names table, keys and both values, and since which entry.

examples:
  manage.py raft digest
  manage.py raft digest --tables shop_item shop_order
  manage.py raft digest --json | jq .differences

exit codes:
  0  all nodes are alike
  1  rows differ, or nothing could be compared; heal a node with `manage.py raft repair --database` on its host
  2  those that could be compared at that entry are alike; others did not answer, or stand still before it
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tables", nargs="+", default=[], metavar="TABLE", help="only these (default: all)")
        parser.add_argument("--timeout", type=float, default=30.0, help="seconds for a node to reach it (default: 30)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        try:
            status = find_members(settings)
            with ClusterDigest(settings, status, options["tables"], options["timeout"]) as digest:
                digest.begin()
                follow(digest, options["timeout"], output)
                found = digest_report.report(digest)
        except (RaftlogError, OSError) as error:
            raise CommandError(f"{type(error).__name__}: {error}") from error
        output.result(plain(found))
        show(found, output)
        return int(found["exit_code"])


def follow(digest: ClusterDigest, timeout: float, output: Output) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=output.console, disable=not output.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_progress(members: list[MemberDigest]) -> None:
            told = [f"{m.node_id}: {m.error or m.status.get('state', '')} {m.status.get('rows', 0):,}" for m in members]
            progress.update(task, description=", ".join(told))

        digest.follow(on_progress, timeout)


def show(found: dict[str, Any], output: Output) -> None:
    rows = []
    for node_id, node in found["nodes"].items():
        rows.append([node_id, node["index"], node["rows"], node["verdict"], node["error"] or node["standing"]])
    output.show(table(["node", "entry", "rows", "", "why"], rows))
    for difference in found["differences"]:
        for line in difference_lines(difference, found["reference"]):
            output.line(line)
    output.line(sentence(found), style="green" if not found["exit_code"] else "bold red")


def difference_lines(difference: dict[str, Any], reference: str | None) -> list[str]:
    since, cause = difference["since"], difference["cause"]
    when = f"{'since' if since['exact'] else 'since or before'} entry {since['index']}"
    where = f"table {difference['table']}" if difference["table"] else "what an entry returned"
    lines = [f"{difference['node']}, {where}: differs {when}, {cause}"]
    for row in difference["rows"]:
        if "error" in row:
            lines.append(f"  its rows cannot be compared: {row['error']}")
            continue
        lines.append(f"  row {row['key'][0] if len(row['key']) == 1 else row['key']!r}:")
        ours, theirs = row["reference"] or {}, row["node"] or {}
        if not ours or not theirs:
            has, lacks = (reference, difference["node"]) if ours else (difference["node"], reference)
            lines.append(f"    on {has} {shorten(ours or theirs)}, not on {lacks}")
            continue
        for name in ours.keys() | theirs.keys():
            if ours.get(name) != theirs.get(name):
                here, there = shorten(ours.get(name)), shorten(theirs.get(name))
                lines.append(f"    {name}: {here} on {reference}, {there} on {difference['node']}")
    return lines


def sentence(found: dict[str, Any]) -> str:
    rows = sum(each["rows"] for each in found["tables"].values())
    if found["reference"] is None:
        return "No node could be asked."
    if found["differences"]:
        nodes = ", ".join(sorted({each["node"] for each in found["differences"]}))
        if not found["majority"]:
            return f"They differ ({nodes}), and no majority is alike: decide which is right before anything is healed."
        return f"{nodes} differ from the majority. On each of their hosts: manage.py raft repair --database"
    text = f"{', '.join(found['alike'])} are alike at entry {found['index']}"
    text += f": {len(found['tables'])} tables, {rows:,} rows"
    return (
        f"{text}; {', '.join(found['incomplete'])} could not be compared there." if found["incomplete"] else f"{text}."
    )


VERB = DigestVerb
