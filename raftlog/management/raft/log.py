"""`raft log`: what the log holds, decoded: of a running node, or of a folder."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connections
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from raftlog.conf import Settings
from raftlog.exceptions import RaftlogError
from raftlog.management.log_sources import FolderSource, LogSource, NodeSource
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.replication.describe import KIND_NAMES, Columns, ColumnsOf, describe, line_of, plain
from raftlog.runtime import clock

WINDOW: Final = 2_000  # entries looked through at a time, from the end on
FOLLOW_INTERVAL: Final = 0.3  # seconds between two looks for new entries

Matches = Callable[[dict[str, Any]], bool]


class LogVerb(Verb):
    name = "log"
    help = "Show entries of the log, decoded: commands with their arguments, transactions with their rows."
    json_help = "print one JSON object a line, one for each entry"
    epilog = """\
Reads through this host's node, through another one (--node), or from a folder (--data-dir; while no node answers:
DATA_DIR), read only and without its lock, so also beside a running node and in a copy. Without --from the newest
entries are shown, the oldest of them first. Entries above the committed index are marked with *: another leader may
still replace them. Rows are shown by the names of their columns where the table has the shape that it had then, else
by position.

examples:
  manage.py raft log                                     the newest 50 entries
  manage.py raft log --from 1200 --limit 200             a page, from an index on
  manage.py raft log --command shop.buy --since "2026-03-01 12:00"
  manage.py raft log --kind transaction --grep 'shop_item.*id=7'
  manage.py raft log --follow                            new entries as they are committed; Ctrl-C ends it
  manage.py raft log --data-dir /tmp/copy/raft --json    a copied folder, as JSON lines
  manage.py raft log --no-arguments                      no value of the application's, to show to others

exit codes:
  0  shown
  1  the log cannot be read
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", type=int, dest="first", metavar="INDEX", help="the first entry to look at")
        parser.add_argument("--to", type=int, dest="last", metavar="INDEX", help="the last one")
        parser.add_argument("--limit", type=int, default=50, help="show at most so many (default: 50)")
        parser.add_argument("--term", type=int, help="only of this term")
        parser.add_argument("--kind", choices=sorted(KIND_NAMES.values()), help="only of this kind")
        parser.add_argument("--command", metavar="NAME", help="only this command")
        parser.add_argument("--since", metavar="TIME", help="only from this log time on, such as 2026-03-01T12:00:00")
        parser.add_argument("--until", metavar="TIME", help="only up to it")
        parser.add_argument("--grep", metavar="REGEX", help="only where the line shown matches")
        parser.add_argument("--no-arguments", action="store_true", help="hide arguments and values of rows")
        parser.add_argument("--follow", action="store_true", help="go on with new entries")
        parser.add_argument("--node", metavar="ID", help="ask this member")
        parser.add_argument("--data-dir", metavar="PATH", help="read this folder")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        matches = matching(options)
        try:
            with (
                contextlib.closing(open_source(settings, options)) as source,
                columns_of(settings.database) as columns,
            ):
                reader = Reader(source, columns, arguments=not options["no_arguments"])
                return show(reader, matches, options, output)
        except KeyboardInterrupt:
            return 0
        except (RaftlogError, OSError) as error:
            raise CommandError(f"{type(error).__name__}: {error}") from error


class Reader:
    """Decoded entries of one source."""

    def __init__(self, source: LogSource, columns: ColumnsOf, *, arguments: bool) -> None:
        self.source = source
        self._columns = columns
        self._arguments = arguments

    def entries(self, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Those from `first` to `last`, in order; what the log no more holds is left out."""
        index = first
        while index <= last:
            batch = self.source.read(index, last)
            if batch is None or not len(batch):
                return
            committed = self.source.commit_index
            for entry in describe(batch, self._columns, arguments=self._arguments):
                entry["committed"] = None if committed is None else entry["index"] <= committed
                yield entry
            index = batch.last_index + 1

    def newest(self, matches: Matches, first: int, last: int, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while last >= first and len(found) < limit:
            begin = max(first, last - WINDOW + 1)
            window = [entry for entry in self.entries(begin, last) if matches(entry)]
            found = window + found
            last = begin - 1
        return found[-limit:]


def show(reader: Reader, matches: Matches, options: dict[str, Any], output: Output) -> int:
    source, limit = reader.source, max(1, options["limit"])
    first = max(options["first"] or 1, source.first_index)
    last = min(options["last"] or source.last_index, source.last_index)
    if options["follow"] and source.commit_index is not None:
        last = min(last, source.commit_index)
    if options["first"] is None:
        for entry in reader.newest(matches, first, last, limit):
            show_entry(entry, output)
    else:
        shown = 0
        for entry in reader.entries(first, last):
            if matches(entry):
                if shown == limit and not options["follow"]:
                    output.line(f"More: manage.py raft log --from {entry['index']}", style="dim")
                    return 0
                show_entry(entry, output)
                shown += 1
    while options["follow"]:
        clock.sleep(FOLLOW_INTERVAL)
        source.refresh()
        end = source.last_index if source.commit_index is None else min(source.commit_index, source.last_index)
        for entry in reader.entries(max(last + 1, source.first_index), end):
            last = entry["index"]
            if matches(entry):
                show_entry(entry, output)
    return 0


def show_entry(entry: dict[str, Any], output: Output) -> None:
    output.result(plain(entry))
    output.line(rendered(entry))


def rendered(entry: dict[str, Any]) -> str:
    mark = "*" if entry["committed"] is False else " "
    moment = entry["time"].removesuffix("+00:00")
    return f"{entry['index']:>9}{mark} {entry['term']:>4}  {moment}  {entry['kind']:<13} {line_of(entry)}".rstrip()


def matching(options: dict[str, Any]) -> Matches:
    """Raises CommandError for an option that means nothing."""
    since, until = moment(options["since"], "--since"), moment(options["until"], "--until")
    try:
        pattern = re.compile(options["grep"]) if options["grep"] else None
    except re.error as error:
        raise CommandError(f"--grep {options['grep']}: {error}") from error

    def matches(entry: dict[str, Any]) -> bool:
        return (
            (options["term"] is None or entry["term"] == options["term"])
            and (options["kind"] is None or entry["kind"] == options["kind"])
            and (options["command"] is None or entry.get("command") == options["command"])
            and (since is None or datetime.datetime.fromisoformat(entry["time"]) >= since)
            and (until is None or datetime.datetime.fromisoformat(entry["time"]) <= until)
            and (pattern is None or pattern.search(rendered(entry)) is not None)
        )

    return matches


def moment(text: str | None, option: str) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        parsed = parse_datetime(text) or parse_datetime(f"{text}T00:00")
    except ValueError as error:
        raise CommandError(f"{option} {text}: {error}") from error
    if parsed is None:
        raise CommandError(
            f"{option} {text}: write it as 2026-03-01T12:00:00, in the time zone of the settings or with +00:00"
        )
    return timezone.make_aware(parsed) if timezone.is_naive(parsed) else parsed


def open_source(settings: Settings, options: dict[str, Any]) -> LogSource:
    if options["data_dir"]:
        return FolderSource(options["data_dir"])
    try:
        if options["node"] and options["node"] != settings.node_id:
            return NodeSource(settings, address_of(settings, options["node"]))
        return NodeSource(settings)
    except RaftlogError:
        if options["node"]:
            raise
        return FolderSource(settings.data_dir)


def address_of(settings: Settings, node_id: str) -> str:
    """As MEMBERS has it, or the local node, which knows who came later."""
    if node_id in settings.members:
        return settings.members[node_id]
    from raftlog.asking import fetch_status

    members = fetch_status(settings)["members"]
    if node_id not in members:
        raise CommandError(f"{node_id} is no member; the members are {', '.join(members)}")
    return str(members[node_id]["address"])


@contextlib.contextmanager
def columns_of(alias: str) -> Iterator[ColumnsOf]:
    """The columns of tables as this host's database has them now, where it can be read."""
    make = getattr(connections[alias], "table_reader", None)
    known: dict[tuple[str, bytes], Columns | None] = {}
    with contextlib.ExitStack() as stack:
        snapshot = None
        if make is not None:
            driver_error = connections[alias].Database.Error  # type: ignore[attr-defined]
            try:
                reader = stack.enter_context(contextlib.closing(make()))
                snapshot = stack.enter_context(reader.snapshot())
            except (driver_error, DatabaseError):
                snapshot = None

        def find(table: str, digest: bytes) -> Columns | None:
            if (table, digest) not in known:
                shape = snapshot.shape(table) if snapshot is not None else None
                same = shape is not None and shape.digest == digest
                known[table, digest] = Columns(shape.columns, shape.key) if shape is not None and same else None
            return known[table, digest]

        yield find


VERB = LogVerb
