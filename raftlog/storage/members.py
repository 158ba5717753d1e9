"""The file `members`: which commands the other members' code had when they were last heard.

Nothing is lost with it but that knowledge, so one that is missing or cannot be read counts as empty.
"""

from __future__ import annotations

from typing import Final

import msgspec

from raftlog.storage.filesystem import FileSystem
from raftlog.storage.layout import replace_file

MEMBERS: Final = "members"

# node id -> name of a command -> versions
MemberCommands = dict[str, dict[str, list[int]]]


def load_members(filesystem: FileSystem, directory: str) -> MemberCommands:
    path = f"{directory}/{MEMBERS}"
    if not filesystem.exists(path):
        return {}
    file = filesystem.open(path)
    try:
        return msgspec.json.decode(file.pread(file.size(), 0), type=MemberCommands)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    finally:
        file.close()


def save_members(filesystem: FileSystem, directory: str, members: MemberCommands) -> None:
    """Replace it. Raises OSError; then the old one stands."""
    replace_file(filesystem, f"{directory}/{MEMBERS}", msgspec.json.encode(members))
