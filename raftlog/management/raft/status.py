"""`raft status`: who leads, who lags, who cannot be reached; from any host, also while nobody leads."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.management.output import Foldable, Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.observing.picture import warnings
from raftlog.observing.view import Ask, collect, health, image_of, milliseconds, role_word, sentence, turn_sentence
from raftlog.runtime import clock


class StatusVerb(Verb):
    name = "status"
    help = "Show every member: role, term, indices, lag, and whether there is a leader."
    epilog = """\
Asks the node of this host and then every member directly, so that it works from any host and while there is no leader.
The members are those that the log knows, or those of RAFTLOG["MEMBERS"] where the local node is down.

columns:
  applied   last index whose effects are in that node's database
  behind    entries that the leader has committed and this node has not applied
  backlog   entries that it knows to be committed, and has not applied yet
  contact   seconds since the leader heard from it
  trip      from a message of the leader to its answer, smoothed
  log       size of its log's files; folder: of all that it keeps; free: what its disk has left
  image     the image of the database (snapshot) that it pulls or makes now, and how far it is

Below the table: what needs attention, and what to do about it, as the admin's Cluster page says it.

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
    """A table, a sentence that says whether the cluster can write, and what needs attention."""
    columns = [
        *("node", "role", "term", "committed", "applied", "behind", "backlog"),
        *("contact", "trip", "log", "folder", "free", "image", "address"),
    ]
    rows = [
        [
            row["node_id"],
            role_of(row),
            *(row["current_term"], row["commit_index"], row["last_applied"], row["behind"], row["backlog"]),
            row["last_contact"],
            milliseconds(row["round_trip"]),
            size(row["log_bytes"]),
            *(size((row["disk"] or {}).get(name)) for name in ("taken", "free")),
            image_words(row),
            row["address"],
        ]
        for row in report["members"]
    ]
    said = " ".join(filter(None, [sentence(report), health(report), turn_sentence(report)]))
    shown = Foldable(columns, rows, at=columns.index("trip"))
    return Group(Text(said, style="bold"), shown, *map(warning_line, warnings(report)))


def role_of(row: dict[str, Any]) -> str:
    """Of a member, and what it is where that is no voter."""
    if not row["reachable"]:
        return "unreachable"
    kind = row["kind"]
    role = role_word(row["role"])
    return f"{role}, {kind}" if kind and kind != "voter" else role


def size(count: int | None) -> str | None:
    return None if count is None else decimal(count)


def image_words(row: dict[str, Any]) -> str | None:
    image = image_of(row)
    if image is None:
        return None
    return image["words"] if image["percent"] is None else f"{image['words']}, {image['percent']:.0f} %"


def warning_line(each: dict[str, str]) -> Text:
    line = Text(f"{each['node_id']} {each['text']}", style="yellow")
    return line.append(f"  → {each['advice']}", style="dim") if each["advice"] else line


VERB = StatusVerb
