"""`raft snapshot`: make an image of this host's database now, or show what is in one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.conf import Settings
from raftlog.exceptions import RaftlogError
from raftlog.management.output import Output, table
from raftlog.management.progress import byte_progress
from raftlog.management.raft.backup import describer
from raftlog.management.verbs import Verb, read_settings
from raftlog.replication.images import ImageHeader, make_image, read_header, verify_image
from raftlog.runtime import clock

SHOWN_TABLES = 20  # for people; --json has all


class SnapshotVerb(Verb):
    name = "snapshot"
    help = "Make an image of this host's database in a file, or show what an image holds."
    epilog = """\
An image is the whole database at one entry of the log, in one file with a checksum for each 256 KiB: what a new member
fetches from a peer, and what a backup is. It is made while the database is in use; nobody's writes wait for it. The
copy is as large as the database (PostgreSQL: an archive of pg_dump), and the file appears when it is complete.

An image of SQLite is a database, that of PostgreSQL an archive: `sqlite3 FILE` or `pg_restore --list FILE` reads it.

examples:
  manage.py raft snapshot /backup/now.image
  manage.py raft snapshot --show /backup/now.image              where it stands in the log, its tables and rows
  manage.py raft snapshot --show --verify /backup/now.image     reads the whole file, every checksum

exit codes:
  0  made, or shown
  1  not made, no image, or damaged: the message says why, and which chunk
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="where to write it, or which one to show")
        parser.add_argument("--show", action="store_true", help="say what is in FILE; reads its end only")
        parser.add_argument("--verify", action="store_true", help="with --show: compare every checksum")

    def run(self, options: dict[str, Any], output: Output) -> int:
        path = Path(options["file"])
        if options["verify"] and not options["show"]:
            raise CommandError("--verify goes with --show")
        try:
            return show(path, options, output) if options["show"] else make(read_settings(), path, output)
        except (RaftlogError, OSError) as error:
            raise CommandError(str(error)) from error


def make(settings: Settings, path: Path, output: Output) -> int:
    if settings.state_machine != "database":
        raise CommandError(f"STATE_MACHINE is {settings.state_machine!r}: there is no database to make an image of")
    if path.exists():
        raise CommandError(f"{path} exists already: choose another name, or delete it")
    started = clock.monotonic()
    with byte_progress(output, "snapshot") as on_progress:
        header = make_image(settings.database, path, describer(settings), on_progress=on_progress)
    seconds = clock.monotonic() - started
    rate = header.total_rows / max(seconds, 1e-9)
    what = f"entry {header.index} of term {header.term}; {header.total_rows:,} rows, {path.stat().st_size:,} bytes"
    output.line(f"{path}: {what} in {seconds:.2f} s ({rate:,.0f} rows/s)", style="green")
    output.result({**as_data(header, path), "seconds": round(seconds, 3), "rows_per_second": round(rate)})
    return 0


def show(path: Path, options: dict[str, Any], output: Output) -> int:
    if options["verify"]:
        with byte_progress(output, "verify") as on_progress:
            header = verify_image(path, on_progress)
    else:
        header = read_header(path)
    made_at = datetime.fromtimestamp(header.created_at / 1e6, UTC)
    log_time = datetime.fromtimestamp(header.base.log_time / 1e6, UTC)
    voters = ", ".join(header.base.configuration.voters) or "–"
    facts = [
        ("cluster", f"{header.cluster} ({header.cluster_id or 'no id yet'})"),
        ("last entry", f"{header.index} of term {header.term}, log time {log_time:%Y-%m-%d %H:%M:%S} UTC"),
        ("members", f"{voters} (as of entry {header.base.configuration_index})"),
        ("made", f"{made_at:%Y-%m-%d %H:%M:%S} UTC by raftlog {header.raftlog}, {header.server}"),
        ("size", f"{path.stat().st_size:,} bytes, {header.chunks:,} chunks of {header.chunk_bytes:,}"),
        ("rows", f"{header.total_rows:,} in {len(header.rows)} tables"),
        *((f"hook {each.name}", f"{each.size:,} bytes") for each in header.attachments),
        ("checksums", "all compared" if options["verify"] else "not compared (--verify does)"),
    ]
    output.show(table(["", ""], facts))
    largest = sorted(header.rows.items(), key=lambda each: (-each[1], each[0]))
    output.show(table(["table", "rows"], largest[:SHOWN_TABLES]))
    if len(largest) > SHOWN_TABLES:
        output.line(f"and {len(largest) - SHOWN_TABLES} smaller tables")
    output.result({**as_data(header, path), "verified": options["verify"]})
    return 0


def as_data(header: ImageHeader, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "format": header.format,
        "vendor": header.vendor,
        "server": header.server,
        "cluster": header.cluster,
        "cluster_id": header.cluster_id,
        "index": header.index,
        "term": header.term,
        "log_time": header.base.log_time,
        "configuration_index": header.base.configuration_index,
        "created_at": header.created_at,
        "raftlog": header.raftlog,
        "tables_version": header.tables_version,
        "rows": header.rows,
        "total_rows": header.total_rows,
        "bytes": path.stat().st_size,
        "database_bytes": header.database_bytes,
        "attachments": {each.name: each.size for each in header.attachments},
        "digest": header.digest.hex(),
    }


VERB = SnapshotVerb
