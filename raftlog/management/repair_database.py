"""`raft repair --database`: put a database that has diverged aside, so that the node builds it anew when it starts.

It comes from the node's own log where that goes back to the first entry, else from an image of a peer. The cause of a
divergence should be mended before: a command that is not deterministic would do it again.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import connections
from rich.progress import BarColumn, Progress, TextColumn

from raftlog.conf import Settings
from raftlog.consensus.entries import EntryBatch
from raftlog.exceptions import DirectoryInUse, RaftlogError, StorageError
from raftlog.management.members import confirm
from raftlog.management.output import Output
from raftlog.node import fetch_status
from raftlog.storage import Storage, open_storage
from raftlog.storage.inspect import verify

SUFFIXES: Final = ("", "-wal", "-shm")


def repair_database(settings: Settings, output: Output, *, noinput: bool) -> dict[str, Any]:
    """Returns what was done. Raises CommandError where nothing was."""
    database = database_file(settings.database)
    try:
        storage = open_storage(settings.data_dir, node_id=settings.node_id, cluster=settings.cluster)
    except DirectoryInUse as error:
        raise CommandError(f"{error}. Stop this host's node first") from error
    except StorageError as error:
        raise CommandError(f"the log must be repaired first: {error}") from error
    try:
        source = find_source(settings, storage, output)
        confirm(
            output,
            f"The database {database} is put aside, and made anew by the node when it starts, from {source}.",
            noinput=noinput,
        )
        kept = put_aside(database)
    finally:
        storage.close()
    output.line(f"The old database is {kept}; remove it when it is not needed any more.")
    output.line("Start the node (manage.py raft run); `raft status` shows how far it is.", style="green")
    return {"database": str(database), "kept": str(kept), "source": source}


def database_file(alias: str) -> Path:
    """Raises CommandError where the database is no file."""
    connection = connections[alias]
    if connection.vendor != "sqlite":
        raise CommandError(
            f"DATABASES[{alias!r}] is {connection.vendor}: with the node stopped make it anew (dropdb, createdb), and "
            "start the node: it fills the empty database"
        )
    connection.close()
    return Path(str(connection.settings_dict["NAME"])).absolute()


def find_source(settings: Settings, storage: Storage, output: Output) -> str:
    """Where the rows will come from, in words. Raises CommandError where they would come from nowhere."""
    if storage.log.base.index == 0:
        if problems := verify_log(settings, storage, output):
            raise CommandError(f"this node's log is damaged, so the database is left as it is: {'; '.join(problems)}")
        return f"this node's log, entries 1-{storage.log.last_index}"
    healthy, reasons = healthy_peers(settings)
    if not healthy:
        text = f"this node's log begins at entry {storage.log.first_index}, and no healthy peer has an image"
        raise CommandError(f"{text} ({'; '.join(reasons) or 'it has no peers'}); the database is left as it is")
    return f"an image of {' or '.join(healthy)}"


def verify_log(settings: Settings, storage: Storage, output: Output) -> list[str]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} of {task.total:,}"))
    with Progress(*columns, console=output.console, disable=not output.is_terminal, transient=True) as progress:
        task = progress.add_task("reading the log", total=storage.log.last_index)

        def on_progress(batch: EntryBatch) -> None:
            progress.update(task, completed=batch.last_index)

        return verify(settings.data_dir, storage.filesystem, on_progress)


def healthy_peers(settings: Settings) -> tuple[list[str], list[str]]:
    """Peers that answer and have no problem, and why the others do not count."""
    healthy, reasons = [], []
    for node_id, address in settings.members.items():
        if node_id == settings.node_id:
            continue
        try:
            status = fetch_status(settings, address)
        except (RaftlogError, OSError) as error:
            reasons.append(f"{node_id}: {error}")
            continue
        if status["healthy"]:
            healthy.append(node_id)
        else:
            reasons.append(f"{node_id}: {'; '.join(status['problems'])}")
    return healthy, reasons


def put_aside(database: Path) -> Path:
    """Rename it with what lies beside it, which belongs to it."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = database.with_name(f"{database.name}.aside-{stamp}")
    for suffix in SUFFIXES:
        path = database.with_name(database.name + suffix)
        if path.exists():
            os.rename(path, kept.with_name(kept.name + suffix))
    return kept
