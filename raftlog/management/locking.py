"""What the verbs of locks share."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from typing import Any, Final

from django.apps import apps
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from raftlog.contrib.locks.exceptions import LockError
from raftlog.runtime import clock

PREPARE_TIMEOUT: Final = 60.0  # seconds
LONGEST_PAUSE: Final = 1.0  # between two attempts


def add_command(parser: CommandParser) -> None:
    # PARSER keeps a "--" of the command's own, and options that follow its name.
    parser.add_argument("command", nargs=argparse.PARSER, metavar="-- CMD", help="what to run, with its arguments")


def command_of(options: dict[str, Any]) -> list[str]:
    command: list[str] = options["command"]
    return command[1:] if command[0] == "--" else command


def require_app() -> None:
    if not apps.is_installed("raftlog.contrib.locks"):
        raise CommandError("locks are an app of their own: add 'raftlog.contrib.locks' to INSTALLED_APPS")


def prepare(say: Callable[[str], None]) -> None:
    """Make the tables of locks where they are missing. Many hosts may do it at once: one of them comes through."""
    from raftlog.contrib.locks.tables import require_tables

    require_app()
    deadline = clock.monotonic() + PREPARE_TIMEOUT
    while True:
        try:
            return require_tables()
        except LockError as error:
            missing: Exception = error
        try:
            say("the tables of locks are made first")
            call_command("migrate", "raftlog_locks", verbosity=0, interactive=False, skip_checks=True)
        except DatabaseError as error:  # another host was faster, or no leader is there yet
            missing = error
        if clock.monotonic() >= deadline:
            raise CommandError(f"the tables of locks could not be made: {missing}") from missing
        clock.sleep(random.SystemRandom().uniform(0, LONGEST_PAUSE))


def is_done(name: str, key: str) -> bool:
    """Whether a step was done, as far as this host has applied the log: at least up to the lock that it holds."""
    from raftlog.contrib.locks.models import Done

    return Done.objects.filter(name=name, key=key).exists()
