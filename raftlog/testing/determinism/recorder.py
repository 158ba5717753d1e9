"""What tests propose through raft_inline, kept as cases: each with the database as the command found it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from raftlog.replication.context import CommandContext
from raftlog.replication.registry import Command
from raftlog.testing.determinism.cases import make_case, save
from raftlog.testing.inline import Inline

_numbers = itertools.count(1)


def record(inline: Inline, folder: Path) -> None:
    """From now on. `folder` is made where it is missing; several processes may share it."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(command: Command, arguments: dict[str, Any], context: CommandContext) -> None:
        path = folder / f"{os.getpid()}-{next(_numbers):06}.sqlite3"
        save(make_case(command, arguments, path, context, inline.alias), folder)

    inline.observers.append(keep)
