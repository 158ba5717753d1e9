"""`raft repair --database`: put a database that has diverged aside, so that the node makes it anew when it starts.

It comes from the node's own log where that goes back to the first entry, else from an image of a peer. The cause of a
divergence should be mended before. Where that is a command which would do it again when the log is applied again,
the rows must come from the peers: the log then gives up what the database had applied, as a compacted one does, and
the node pulls an image of at least that entry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import DatabaseError, connections

from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.disaster.emptying import drop_everything
from raftlog.exceptions import ApplyStopped, DirectoryInUse, RaftlogError, StorageError
from raftlog.management.checking import check_folder
from raftlog.management.members import confirm
from raftlog.management.output import Output
from raftlog.replication.tables import read_applied
from raftlog.runtime import clock
from raftlog.runtime.loading import load_log
from raftlog.storage import Storage, open_storage

SUFFIXES: Final = ("", "-wal", "-shm")


def repair_database(settings: Settings, output: Output, *, from_peers: bool, noinput: bool) -> dict[str, Any]:
    """Returns what was done. Raises CommandError where nothing was."""
    try:
        storage = open_storage(settings.data_dir, node_id=settings.node_id, cluster=settings.cluster)
    except DirectoryInUse as error:
        raise CommandError(f"{error}. Stop this host's node first") from error
    except StorageError as error:
        raise CommandError(f"the log must be repaired first: {error}") from error
    try:
        applied = applied_index(settings.database) if from_peers else 0
        source = find_source(settings, storage, output, from_peers=from_peers)
        confirm(output, question(settings.database, source), noinput=noinput)
        if applied:
            storage.log.compact_to(load_log(storage.log).base_at(applied))
        kept = put_aside(settings.database)
    finally:
        storage.close()
    output.line(f"{kept}.")
    output.line("Start the node (manage.py raft run); `raft status` shows how far it is.", style="green")
    return {"kept": kept, "source": source}


def question(alias: str, source: str) -> str:
    connection = connections[alias]
    lost = "is moved aside" if connection.vendor == "sqlite" else "loses all its tables"
    name = connection.settings_dict["NAME"]
    return f"The database {name} {lost}; the node makes it anew when it starts, from {source}."


def applied_index(alias: str) -> int:
    """The entry up to which the database was applied, and so is committed."""
    connection = connections[alias]
    try:
        return read_applied(connection).index
    except (DatabaseError, ApplyStopped) as error:
        text = f"what this database has applied cannot be read: {error}; repair without --from-peers"
        raise CommandError(text) from error
    finally:
        connection.close()


def find_source(settings: Settings, storage: Storage, output: Output, *, from_peers: bool) -> str:
    """Where the rows will come from, in words. Raises CommandError where they would come from nowhere."""
    if storage.log.base.index == 0 and not from_peers:
        if findings := check_folder(storage.filesystem, storage.directory, output).findings:
            damage = "; ".join(map(str, findings))
            raise CommandError(f"this node's log is damaged, so the database is left as it is: {damage}")
        return f"this node's log, entries 1-{storage.log.last_index}"
    healthy, reasons = healthy_peers(settings)
    if not healthy:
        text = "the rows would have to come from a peer, and no healthy one answers"
        raise CommandError(f"{text} ({'; '.join(reasons) or 'there is none'}); the database is left as it is")
    return f"an image of {' or '.join(healthy)}"


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


def put_aside(alias: str) -> str:
    """What was done, in words."""
    connection = connections[alias]
    connection.close()
    if connection.vendor != "sqlite":
        return "; ".join(drop_everything(alias))
    stamp = datetime.fromtimestamp(clock.wall_microseconds() / 1e6, UTC).strftime("%Y%m%d-%H%M%S")
    database = Path(str(connection.settings_dict["NAME"])).absolute()
    kept = database.with_name(f"{database.name}.before-{stamp}")
    for suffix in SUFFIXES:  # the write-ahead log belongs to its file, and is found by its name
        path = database.with_name(database.name + suffix)
        if path.exists():
            path.rename(kept.with_name(kept.name + suffix))
    return f"the old database is {kept}"
