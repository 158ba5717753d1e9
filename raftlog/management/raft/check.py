"""`raft check`: would `raft run` work here? Settings, folder, database, port, peers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core import checks
from django.core.management.base import CommandError, CommandParser

from raftlog.asking import fetch_status
from raftlog.checks import TAG
from raftlog.conf import Settings
from raftlog.exceptions import RaftlogError
from raftlog.management.output import Output, table
from raftlog.management.raft.run import refuse_unapplied_migrations
from raftlog.management.verbs import Verb, read_settings

OK, FAILED, WARNING = "ok", "failed", "warning"


class CheckVerb(Verb):
    name = "check"
    help = "Check, without changing anything, whether this host's node can run and reach its peers."
    epilog = """\
Looks at the settings (system checks of raftlog), the folder of the log, the database's migrations, the port, and asks
every other member with this host's secret key: a wrong key, cluster name or address shows here. Peers that are down
are warnings, since a cluster is started one node after the other.

exit codes:
  0  nothing failed
  1  something failed; the table says what and how to mend it
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--timeout", type=float, default=2.0, help="seconds to wait for each peer (default: 2)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        rows = settings_rows()
        if not any(row[1] == FAILED for row in rows):
            settings = read_settings()
            rows += [folder_row(settings), database_row(settings), port_row(settings)]
            rows += peer_rows(settings, lambda address: fetch_status(settings, address, timeout=options["timeout"]))
        output.show(table(["what", "result", "detail"], rows))
        failed = any(row[1] == FAILED for row in rows)
        output.result(
            {"ok": not failed, "checks": [dict(zip(("what", "result", "detail"), row, strict=True)) for row in rows]}
        )
        return int(failed)


Row = tuple[str, str, str]


def settings_rows() -> list[Row]:
    messages = checks.run_checks(tags=[TAG])
    rows = [
        (message.id or "settings", FAILED if message.is_serious() else WARNING, f"{message.msg} {message.hint}")
        for message in messages
    ]
    return rows or [("settings", OK, "RAFTLOG is valid")]


def folder_row(settings: Settings) -> Row:
    """The folder itself, or the nearest one above it that exists, must be writable."""
    folder: Path = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return ("folder", FAILED, f"{existing} is no folder that this user may write: change its owner, or DATA_DIR")
    return ("folder", OK, str(folder) if existing == folder else f"{folder} will be made")


def database_row(settings: Settings) -> Row:
    try:
        refuse_unapplied_migrations(settings.database)
    except CommandError as error:
        return ("database", FAILED, str(error))
    return ("database", OK, f"{settings.database}: all migrations are applied")


def port_row(settings: Settings) -> Row:
    host, port = settings.bind
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            try:
                fetch_status(settings, timeout=1)
            except (RaftlogError, OSError):
                return ("port", FAILED, f"{host}:{port}: {error}; end the process that has it, or change BIND")
            return ("port", OK, f"{host}:{port}: this host's node is running")
    return ("port", OK, f"{host}:{port} is free")


def peer_rows(settings: Settings, ask: Callable[[str], dict[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for node_id, address in settings.members.items():
        if node_id == settings.node_id:
            continue
        try:
            status = ask(address)
        except (RaftlogError, OSError) as error:
            rows.append((f"peer {node_id}", WARNING, f"{address}: {error}"))
            continue
        right = status["node_id"] == node_id
        detail = f"{address}: {status['role']}" if right else f"{address} is node {status['node_id']}: mend MEMBERS"
        rows.append((f"peer {node_id}", OK if right else FAILED, detail))
    return rows


VERB = CheckVerb
