"""`raft verify`: is the log, byte for byte, what was written; beside a running node, or of any copy of a folder."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.management.checking import check_folder, finding_as_data
from raftlog.management.database_check import check_database
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.storage.filesystem import RealFileSystem
from raftlog.storage.layout import LOCK, METADATA

WHOLE, DAMAGED, NOTHING_THERE = 0, 1, 2


class VerifyVerb(Verb):
    name = "verify"
    help = "Read the whole log again and check every checksum; with --database the database, too."
    epilog = """\
Changes nothing and takes no lock, so it works beside a running node and on a copy of its folder. It reads all records
of all segments, their footers, the term and vote, and the folder's identity: more than a start does, which trusts the
footers. A running node does the same by itself, slowly, once an hour (SCRUB_BYTES_PER_SECOND; `raft status --json` has
"scrub"). What is damaged, `raft repair` mends.

examples:
  manage.py raft verify
  manage.py raft verify --data-dir /backup/shop/raft
  manage.py raft verify --database              SQLite's integrity_check and foreign_key_check; PostgreSQL's amcheck
  manage.py raft verify --json | jq '.findings[].path'

exit codes:
  0  everything is whole
  1  something is damaged: each line says file, offset and entries
  2  there is no log to look at
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--data-dir", metavar="PATH", help="another folder than DATA_DIR, a copy for one")
        parser.add_argument("--database", action="store_true", help="check the database as well")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        directory = os.fspath(options["data_dir"] or settings.data_dir)
        filesystem = RealFileSystem()
        names = filesystem.list_directory(directory) if os.path.isdir(directory) else []
        if not set(names) - {LOCK} or (METADATA not in names and not any(name.endswith(".segment") for name in names)):
            output.result({"ok": False, "directory": directory, "error": "no log is there"})
            output.line(f"{directory} holds no log", style="red")
            return NOTHING_THERE
        try:
            checked = check_folder(filesystem, directory, output)
        except OSError as error:
            raise CommandError(f"{directory} cannot be read: {error}") from error
        database = check_database(settings.database, output) if options["database"] else None
        problems = database.problems if database is not None else []
        ok = not checked.findings and not problems
        output.result(
            {
                "ok": ok,
                "directory": directory,
                "segments": checked.segments,
                "read_bytes": checked.read_bytes,
                "entries": checked.entries,
                "findings": [finding_as_data(finding) for finding in checked.findings],
                "database": database.as_data() if database is not None else None,
            }
        )
        if checked.findings:
            for finding in checked.findings:
                output.line(str(finding), style="red")
            output.line("Stop the node of this folder, then: manage.py raft repair", style="red")
        else:
            read = f"{checked.segments} segments, {checked.entries:,} entries, {checked.read_bytes:,} bytes"
            output.line(f"{directory}: {read}: all whole", style="green")
        if database is not None:
            for problem in problems:
                output.line(f"database {settings.database}: {problem}", style="red")
            if not problems:
                output.line(f"database {settings.database}: {database.words}", style="green")
        return WHOLE if ok else DAMAGED


VERB = VerifyVerb
