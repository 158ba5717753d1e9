"""`raft backup`: an image of the database, made while it is in use."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser

from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.consensus.snapshot import LogBase
from raftlog.disaster.backups import (
    DESCRIBE_ENTRY,
    Describe,
    back_up_to_file,
    back_up_to_storage,
    describe_from_folder,
    verify_file,
)
from raftlog.disaster.pieces import read_piece
from raftlog.disaster.store import BackupError, BackupStore, cluster_ids, open_storage_named
from raftlog.exceptions import NodeUnavailable, RaftlogError
from raftlog.management.output import Output, table
from raftlog.management.progress import byte_progress
from raftlog.management.verbs import Verb, read_settings
from raftlog.replication.images import ImageHeader
from raftlog.transport.client import NodeClient

NOT_LEADER = 3


class BackupVerb(Verb):
    name = "backup"
    help = "Make a backup of the database: one file, consistent, checksummed, while it is in use."
    epilog = """\
It is made on this host, of its database, whether its node leads or not; nobody's writes wait for it. With --storage it
goes to one of Django's STORAGES (object stores, through django-storages), in a folder of this cluster.

To go back to any moment between two backups, set ARCHIVE_INTERVAL: then the leader archives what is committed beside
them. BACKUP_INTERVAL and BACKUP_KEEP make backups by themselves. `raft restore` makes a new cluster of it all.

examples:
  manage.py raft backup /backup/shop.raftlog
  manage.py raft backup --storage backups --keep 7          for cron: add --if-leader, and run it on every host
  manage.py raft backup --storage backups --list            what there is
  manage.py raft backup --storage backups --verify          reads the newest backup and the archive after it
  manage.py raft backup --verify /backup/shop.raftlog

exit codes:
  0  done
  1  not done, or what was verified is damaged: the message says why
  3  nothing was done: --if-leader, and this host's node does not lead
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", help="where to write it, or what to verify")
        parser.add_argument("--storage", metavar="NAME", help="a key of Django's STORAGES, instead of a file")
        parser.add_argument(
            "--keep", type=int, metavar="N", help="afterwards keep the newest N backups and the archive after them"
        )
        parser.add_argument("--if-leader", action="store_true", help="only where this host's node leads")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--list", action="store_true", help="show the backups in --storage")
        what.add_argument("--verify", action="store_true", help="check every checksum of the newest backup, or of FILE")

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        if bool(options["file"]) == bool(options["storage"]):
            raise CommandError("say where: FILE, or --storage NAME")
        if options["keep"] is not None and (options["keep"] < 1 or not options["storage"]):
            raise CommandError("--keep takes a number from 1 on, and --storage")
        try:
            if options["list"]:
                return show(settings, options, output)
            if options["verify"]:
                return verify(settings, options, output)
            return back_up(settings, options, output)
        except (RaftlogError, OSError) as error:
            raise CommandError(str(error)) from error


def back_up(settings: Settings, options: dict[str, Any], output: Output) -> int:
    if settings.state_machine != "database":
        raise BackupError(f"STATE_MACHINE is {settings.state_machine!r}: there is no database to back up")
    if options["if_leader"] and fetch_status(settings)["role"] != "leader":
        output.line(f"{settings.node_id} does not lead: nothing was done")
        output.result({"done": False, "node_id": settings.node_id})
        return NOT_LEADER
    describe = describer(settings)
    deleted: list[str] = []
    with byte_progress(output, "backup") as on_progress:
        if options["storage"]:
            storage = open_storage_named(options["storage"])
            stores: dict[str, BackupStore] = {}

            def store_of(cluster_id: str) -> BackupStore:
                return stores.setdefault(cluster_id, BackupStore(storage, settings.cluster, cluster_id))

            header, name = back_up_to_storage(settings, store_of, describe, on_progress)
            if options["keep"]:
                deleted = store_of(header.cluster_id).prune(options["keep"])
        else:
            name = options["file"]
            header = back_up_to_file(settings.database, Path(name), describe, on_progress)
    output.line(f"{name}: {words(header)}", style="green")
    for old in deleted:
        output.line(f"deleted {old}")
    output.result({"done": True, "name": name, "deleted": deleted, **as_data(header)})
    return 0


def describer(settings: Settings) -> Describe:
    """Asks this host's node, or reads its folder where none runs."""

    def describe(index: int, term: int) -> LogBase:
        client = NodeClient(f"unix:{settings.socket_path}", settings.secret_keys, settings.cluster)
        try:
            answer = client.request(DESCRIBE_ENTRY, {"index": index}, timeout=10.0)
        except NodeUnavailable:
            return describe_from_folder(settings)(index, term)
        finally:
            client.close()
        return msgspec.convert(answer, LogBase)

    return describe


def show(settings: Settings, options: dict[str, Any], output: Output) -> int:
    if not options["storage"]:
        raise CommandError("--list takes --storage")
    storage = open_storage_named(options["storage"])
    rows, answer = [], []
    for cluster_id in cluster_ids(storage, settings.cluster):
        store = BackupStore(storage, settings.cluster, cluster_id)
        pieces = store.pieces()
        archived = pieces[-1].last_index if pieces else None
        for image in store.images():
            rows.append((cluster_id, image.name, f"{image.made_at:%Y-%m-%d %H:%M:%S UTC}", image.index, archived))
            answer.append(
                {"cluster_id": cluster_id, "name": image.name, "made_at": image.made_at.isoformat(),
                 "index": image.index, "archived_to": archived}
            )  # fmt: skip
    output.show(table(["cluster id", "backup", "made at", "of entry", "archived up to"], rows))
    output.result({"backups": answer})
    return 0


def verify(settings: Settings, options: dict[str, Any], output: Output) -> int:
    with byte_progress(output, "verify") as on_progress:
        if options["file"]:
            header, entries = verify_file(Path(options["file"]), on_progress), 0
        else:
            header, entries = verify_storage(settings, options["storage"], on_progress)
    text = f", and {entries:,} archived entries after it" if options["storage"] else ""
    output.line(f"whole: {words(header)}{text}", style="green")
    output.result({"ok": True, "archived_entries": entries, **as_data(header)})
    return 0


def verify_storage(settings: Settings, alias: str, on_progress: Callable[[int, int], None]) -> tuple[ImageHeader, int]:
    """The newest backup of all clusters of this name, and how many entries are archived after it.

    Raises BackupError, PieceDamaged, ImageError.
    """
    storage = open_storage_named(alias)
    stores = [BackupStore(storage, settings.cluster, each) for each in cluster_ids(storage, settings.cluster)]
    found = [(image, store) for store in stores for image in store.images()]
    if not found:
        raise BackupError(f"there is no backup of {settings.cluster} in {alias}")
    image, store = max(found, key=lambda each: each[0].made_at)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        store.fetch(image.name, path)
        header = verify_file(path, on_progress)
    entries, last_index = 0, image.index
    for piece in store.pieces():
        if piece.last_index <= last_index:
            continue
        if piece.first_index > last_index + 1:
            raise BackupError(f"entries {last_index + 1}-{piece.first_index - 1} are not in the archive {store.folder}")
        with store.opened(piece.name) as file:
            _, batches = read_piece(file, piece.name)
            entries += sum(min(len(batch), max(0, batch.last_index - last_index)) for batch in batches)
        last_index = piece.last_index
    return header, entries


def words(header: ImageHeader) -> str:
    made_at = datetime.fromtimestamp(header.created_at / 1e6, UTC)
    return (
        f"{header.total_rows:,} rows in {len(header.rows)} tables, {header.content_bytes:,} bytes, entry "
        f"{header.index} of term {header.term}, {made_at:%Y-%m-%d %H:%M:%S} UTC"
    )


def as_data(header: ImageHeader) -> dict[str, Any]:
    return {
        "cluster_id": header.cluster_id,
        "index": header.index,
        "term": header.term,
        "rows": header.total_rows,
        "bytes": header.content_bytes,
        "vendor": header.vendor,
        "created_at": header.created_at,
    }


VERB = BackupVerb
