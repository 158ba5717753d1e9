"""What a verb of `manage.py raft` is, and how they are found: one module each in raftlog.management.raft."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser

from raftlog import conf
from raftlog.management import raft
from raftlog.management.output import Output


class Verb:
    """Parses, calls, prints; `run` returns the exit code. Each module of raftlog.management.raft has one as VERB."""

    name: ClassVar[str]
    help: ClassVar[str]
    # Shown below the options: what it does, examples, exit codes.
    epilog: ClassVar[str] = ""
    has_json: ClassVar[bool] = True
    json_help: ClassVar[str] = "print one JSON object instead"

    def __init__(self, command: BaseCommand) -> None:
        self.command = command

    def add_arguments(self, parser: CommandParser) -> None:
        """Options of this verb; --json is added where has_json."""

    def run(self, options: dict[str, Any], output: Output) -> int:
        raise NotImplementedError


def find_verbs() -> list[type[Verb]]:
    names = sorted(module.name for module in pkgutil.iter_modules(raft.__path__))
    return [importlib.import_module(f"{raft.__name__}.{name}").VERB for name in names]


def read_settings() -> conf.Settings:
    """RAFTLOG, or a CommandError that names every mistake."""
    try:
        return conf.load_settings()
    except conf.SettingsError as error:
        raise CommandError(str(error)) from error
