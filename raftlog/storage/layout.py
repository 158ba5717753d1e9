"""What lies where in a node's directory: names, the owner's lock, the metadata file.

    lock                                  held by the owning process; holds its pid
    metadata                              whose directory this is; checksummed text, replaced atomically
    hard_state                            two slots, see hard_state.py
    base                                  what stands before the log's first entry, see base.py
    log-<sequence>-<first index>.segment  see segment.py; sequences count up without gaps
    wanted                                locked by those who wait for the lock, see interest.py
    members                               what the members could apply when they were last heard, see members.py
    damaged-*/                            files that repairs have set aside; nothing reads them
    *.new                                 a file being made; removed at the next start

A directory exists as a node's once `metadata` is in it: it is written last, so a crash before that
leaves a directory that is made again from the beginning, and a missing file after it is damage.
"""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

import msgspec

from raftlog.exceptions import IdentityMismatch, LogDamaged
from raftlog.storage.filesystem import FileSystem

FORMAT: Final = 1
LOCK: Final = "lock"
METADATA: Final = "metadata"
HARD_STATE: Final = "hard_state"
BASE: Final = "base"
TEMPORARY: Final = ".new"

WHAT_TO_DO: Final = (
    "This node must not vote with it. Change nothing by hand: `manage.py raft repair` shows what is lost, keeps the "
    'damaged files aside, and lets this node fetch it again from the others ("A log is damaged" in docs/operations.md)'
)

_SEGMENT: Final = re.compile(r"log-(\d{10})-(\d{20})\.segment")


class Repairing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The folder was repaired (repair.py), and what it had promised is not there again: the node may not vote or count.

    `recovery_id` names this repair, `since` says when (for people), `cut_from` is the first entry that was lost (0:
    only the hard state was); `promised_index` and `promised_term` are the highest that the damaged folder named.
    """

    recovery_id: int
    since: str
    cut_from: int
    promised_index: int
    promised_term: int


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whose directory it is.

    `cluster` is the name from the settings, `cluster_id` the random id of the cluster ("" until it was
    formed), `incarnation` 32 hex digits drawn when the directory was made; `repairing` stands from a repair until it is
    over.
    """

    format: int
    cluster: str
    cluster_id: str
    node_id: str
    incarnation: str
    repairing: Repairing | None = None


def segment_name(sequence: int, first_index: int) -> str:
    return f"log-{sequence:010d}-{first_index:020d}.segment"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(sequence, first index), or None where it is not the name of a segment."""
    match = _SEGMENT.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def damaged(path: str, what: str, *, offset: int | None = None, entries: str = "") -> LogDamaged:
    """The error for a damaged file: which file, where, which entries it costs, what to do."""
    place = path if offset is None else f"{path}, offset {offset}"
    cost = f" It affects entries {entries}." if entries else ""
    error = LogDamaged(f"{place}: {what}.{cost} {WHAT_TO_DO}")
    error.path, error.offset, error.what, error.entries = path, offset, what, entries
    return error


def encode_metadata(metadata: Metadata) -> bytes:
    body = msgspec.json.encode(metadata) + b"\n"
    return b"raftlog metadata, crc32 %08x\n" % crc32(body) + body


def load_metadata(filesystem: FileSystem, directory: str) -> Metadata:
    """Raises FileNotFoundError, LogDamaged, and IdentityMismatch for a format that this version cannot read."""
    path = f"{directory}/{METADATA}"
    file = filesystem.open(path)
    try:
        data = file.pread(file.size(), 0)
    finally:
        file.close()
    _, _, body = data.partition(b"\n")
    if b"raftlog metadata, crc32 %08x\n" % crc32(body) + body != data:
        raise damaged(path, "the checksum of the metadata is wrong")
    try:
        metadata = msgspec.json.decode(body, type=Metadata)
    except msgspec.DecodeError as error:
        raise IdentityMismatch(f"{path} is not of a format that this version of raftlog reads: {error}") from error
    if metadata.format != FORMAT:
        raise IdentityMismatch(
            f"{path} says format {metadata.format}; this version of raftlog reads format {FORMAT}. "
            "Run the version that wrote it, or follow the upgrade notes in CHANGELOG.md"
        )
    return metadata


def replace_file(filesystem: FileSystem, path: str, data: bytes) -> None:
    """The file is the old or the new one, whole; which of them, after a crash, until the directory is synced."""
    temporary = path + TEMPORARY
    if filesystem.exists(temporary):
        filesystem.remove(temporary)
    file = filesystem.create(temporary, len(data))
    try:
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()
    filesystem.rename(temporary, path)


def save_metadata(filesystem: FileSystem, directory: str, metadata: Metadata) -> None:
    """Replace the metadata file, atomically and durably. Raises OSError; then the old one stands."""
    replace_file(filesystem, f"{directory}/{METADATA}", encode_metadata(metadata))
    filesystem.sync_directory(directory)


def check_identity(path: str, metadata: Metadata, *, node_id: str, cluster: str, cluster_id: str) -> None:
    """Raise IdentityMismatch, naming both values, where the directory belongs to another node or cluster."""
    for name, found, expected in (
        ("node_id", metadata.node_id, node_id),
        ("cluster", metadata.cluster, cluster),
        ("cluster_id", metadata.cluster_id, cluster_id),
    ):
        if found and expected and found != expected:
            raise IdentityMismatch(
                f"{path} belongs to {name} {found!r}, the settings say {expected!r}. "
                "Give this node its own directory, or mend the setting; never share or rename a directory"
            )
