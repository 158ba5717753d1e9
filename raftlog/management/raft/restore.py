"""`raft restore`: the first node of a new cluster, out of a backup and what was archived after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connections
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from raftlog.conf import Settings
from raftlog.consensus.entries import EntryBatch
from raftlog.disaster.emptying import set_aside
from raftlog.disaster.restoring import (
    Goal,
    Restored,
    archived_entries,
    choose_image,
    choose_pieces,
    refuse_data,
    restore,
)
from raftlog.disaster.store import BackupError, BackupStore, StoredImage, cluster_ids, open_storage_named
from raftlog.exceptions import RaftlogError
from raftlog.management.members import confirm
from raftlog.management.output import Output
from raftlog.management.progress import byte_progress
from raftlog.management.verbs import Verb, read_settings
from raftlog.node_process import is_listening
from raftlog.replication.images import ImageHeader

INCOMING = "restore-incoming"


class RestoreVerb(Verb):
    name = "restore"
    help = "Make this host the first node of a new cluster, out of a backup and what was archived after it."
    epilog = """\
The new cluster has another id: nodes of the one before are refused, and what they wrote after the backup is not in it.
Archived entries are replayed when the node starts, by the same code that applied them the first time. The other hosts
join with empty folders and databases, by `raft add`.

--to-time and --to-index are inclusive: everything up to that moment (of log time, which the leader gave each entry) or
entry is there, and nothing after it. Without them all that was archived is replayed. A time without a zone is in
TIME_ZONE.

examples:
  manage.py raft restore /backup/shop.raftlog
  manage.py raft restore --storage backups
  manage.py raft restore --storage backups --to-time "2026-03-01 14:59:59"     the second before a mistaken DELETE
  manage.py raft restore --storage backups --to-index 120345

exit codes:
  0  done: start the node with `raft run`
  1  refused or failed, with the reason
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", help="a backup in a file")
        parser.add_argument("--storage", metavar="NAME", help="a key of Django's STORAGES, instead of a file")
        parser.add_argument("--image", metavar="NAME", default="", help="this backup in --storage, and not the newest")
        parser.add_argument("--cluster-id", metavar="ID", help="where --storage has more than one cluster of this name")
        parser.add_argument("--to-time", metavar="TIME", help="up to this moment, ISO 8601")
        parser.add_argument("--to-index", metavar="N", type=int, help="up to this entry")
        parser.add_argument(
            "--replace", action="store_true", help="set aside what this host has (PostgreSQL: drop its tables)"
        )
        parser.add_argument("--noinput", "--yes", action="store_true", dest="noinput", help="do not ask first")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        if bool(options["file"]) == bool(options["storage"]):
            raise CommandError("say from where: FILE, or --storage NAME")
        if is_listening(settings):
            raise CommandError(f"the node of this host ({settings.node_id}) is running: stop it first")
        try:
            goal = Goal(options["to_index"], parse_time(options["to_time"]))
            if goal.is_set and not options["storage"]:
                raise BackupError("--to-time and --to-index take --storage: a file has no archive beside it")
            made = self.restore(settings, goal, options, output)
        except (RaftlogError, OSError) as error:
            raise CommandError(str(error)) from error
        tell(settings, made, output)
        return 0

    def restore(self, settings: Settings, goal: Goal, options: dict[str, Any], output: Output) -> Restored:
        with source(settings, goal, options, output) as (path, entries):
            make_room(settings, options, output)
            with byte_progress(output, "restore") as on_progress:
                return restore(settings, path, entries, on_progress)


Entries = Callable[[ImageHeader], Iterator[EntryBatch]]


@contextlib.contextmanager
def source(settings: Settings, goal: Goal, options: dict[str, Any], output: Output) -> Iterator[tuple[Path, Entries]]:
    """The image as a file of this host, and what gives the entries after it."""
    if options["file"]:
        yield Path(options["file"]), lambda header: iter(())
        return
    store = choose_store(settings, options)
    image = choose_image(store, goal, options["image"])
    pieces = choose_pieces(store, image.index, goal)
    output.line(f"{image.name} of {store.folder}, and {len(pieces)} archived pieces of the log")

    def entries(header: ImageHeader) -> Iterator[EntryBatch]:
        return archived_entries(store, pieces, header, goal)

    with fetched(settings, store, image, output) as path:
        yield path, entries


@contextlib.contextmanager
def fetched(settings: Settings, store: BackupStore, image: StoredImage, output: Output) -> Iterator[Path]:
    folder = settings.data_dir.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{settings.data_dir.name}.{INCOMING}"
    try:
        with byte_progress(output, "fetch") as on_progress:
            store.fetch(image.name, path, on_progress)
        yield path
    finally:
        path.unlink(missing_ok=True)


def choose_store(settings: Settings, options: dict[str, Any]) -> BackupStore:
    storage = open_storage_named(options["storage"])
    stores = [BackupStore(storage, settings.cluster, each) for each in cluster_ids(storage, settings.cluster)]
    found = [store.cluster_id for store in stores if store.images()]
    cluster_id = options["cluster_id"] or (found[0] if len(found) == 1 else "")
    if not found:
        raise BackupError(f"there is no backup of {settings.cluster} in {options['storage']}")
    if not cluster_id:
        raise BackupError(
            f"{options['storage']} has backups of more than one cluster {settings.cluster}: say --cluster-id, one of "
            f"{', '.join(found)} (`raft backup --storage {options['storage']} --list` shows their backups)"
        )
    if cluster_id not in found:
        raise BackupError(f"{options['storage']} has no backup of cluster {cluster_id}, but of {', '.join(found)}")
    return BackupStore(storage, settings.cluster, cluster_id)


def make_room(settings: Settings, options: dict[str, Any], output: Output) -> None:
    if not options["replace"]:
        refuse_data(settings, has_tables(settings.database))
        return
    question = f"Set the folder and the database of {settings.node_id} aside, and make them anew out of the backup?"
    confirm(output, question, noinput=options["noinput"])
    set_aside(settings, output.line)


def has_tables(alias: str) -> bool:
    connection = connections[alias]
    if connection.vendor == "sqlite" and not Path(str(connection.settings_dict["NAME"])).exists():
        return False
    try:
        return bool(connection.introspection.table_names())
    finally:
        connection.close()


def parse_time(text: str | None) -> int | None:
    """Microseconds since the epoch. Raises BackupError."""
    if not text:
        return None
    try:
        moment = parse_datetime(text)
    except ValueError as error:
        raise BackupError(f"--to-time {text}: {error}") from error
    if moment is None:
        raise BackupError(
            f"--to-time {text} is no time: write 2026-03-01T14:59:59, or with a zone +01:00 or Z after it"
        )
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment)
    return round(moment.timestamp() * 1_000_000)


def tell(settings: Settings, made: Restored, output: Output) -> None:
    last = datetime.fromtimestamp(made.last_log_time / 1e6, UTC)
    replayed = made.last_index - made.image.index
    output.line(
        f"{settings.node_id} has the backup of entry {made.image.index}"
        + (f" and {replayed:,} entries after it, up to entry {made.last_index}" if replayed else "")
        + f" ({last:%Y-%m-%d %H:%M:%S} UTC); the new cluster's id is {made.configuration.cluster_id}.",
        style="green",
    )
    output.line("Now `manage.py raft run` here, which replays them; then start the others, empty, and `raft add` them.")
    output.result(
        {
            "node_id": settings.node_id,
            "cluster_id": made.configuration.cluster_id,
            "image_index": made.image.index,
            "last_index": made.last_index,
            "last_log_time": made.last_log_time,
        }
    )


VERB = RestoreVerb
