"""What is run: a command, its arguments, and a copy of the database as it was before; in memory or in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.core import serializers
from django.db import connections, router, transaction

from raftlog.replication.context import CommandContext
from raftlog.replication.propose import limits
from raftlog.replication.registry import Command, registry
from raftlog.testing.cluster_databases import STOCK, make_wrapper, redirected, template_for

LOG_TIME: Final = 1_700_000_000_000_000  # microseconds


class Case(NamedTuple):
    """One call of one command."""

    command: Command
    arguments: dict[str, Any]
    # A SQLite file: the database as the command finds it.
    database: Path
    entry_index: int = 1
    term: int = 1
    log_time: int = LOG_TIME

    def words(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.command.name}({given})"


def make_case(
    command: Command, arguments: dict[str, Any], path: Path, context: CommandContext | None = None, alias: str = ""
) -> Case:
    """A case on what this thread's connection shows now, open transaction included, copied to `path`."""
    copy_database(alias or limits().alias, path)
    complete = command.arguments.check(command.name, arguments)
    if context is None:
        return Case(command, complete, path)
    return Case(command, complete, path, context.index, context.term, context.log_time)


def copy_database(alias: str, path: Path) -> None:
    """SQLite: its pages. Any other database: the rows of all models, in a SQLite file with the project's tables."""
    connection: Any = connections[alias]
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        path.write_bytes(connection.connection.serialize())
        return
    tables = set(connection.introspection.table_names())
    models = [
        model
        for model in apps.get_models()
        if model._meta.managed
        and not model._meta.proxy
        and model._meta.db_table in tables
        and router.allow_migrate_model(alias, model)
    ]
    rows = [row for model in models for row in _rows(alias, model)]
    text = serializers.serialize("json", rows)
    settings = dict(connections.settings[alias])
    shutil.copyfile(template_for(alias, settings), path)
    with redirected(alias, make_wrapper(alias, settings, STOCK, path)):
        here: Any = connections[alias]
        with here.constraint_checks_disabled(), transaction.atomic(using=alias):
            for model in models:  # what a migration had put there, other than the project's own database has it
                model._base_manager.using(alias).all()._raw_delete(alias)
            for row in serializers.deserialize("json", text, using=alias):
                row.save(using=alias)


def _rows(alias: str, model: Any) -> Iterable[Any]:
    rows: Iterable[Any] = model._base_manager.using(alias).order_by(model._meta.pk.name)
    return rows


# Cases in a folder, as tests record them


def save(case: Case, folder: Path) -> None:
    """`case.database` must be in `folder`."""
    about = {
        "command": case.command.name,
        "version": case.command.version,
        "module": case.command.__module__,
        "body": case.command.encode(case.arguments, 1 << 30).hex(),
        "index": case.entry_index,
        "term": case.term,
        "log_time": case.log_time,
    }
    case.database.with_suffix(".json").write_text(json.dumps(about, indent=1))


def load(folder: Path) -> list[Case]:
    """Raises OSError, and LookupError where a command is not known (any more)."""
    import importlib

    from raftlog.replication import codec

    cases = []
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text())
        if registry.get(about["command"], about["version"]) is None:
            importlib.import_module(about["module"])
        command = registry.get(about["command"], about["version"])
        if command is None:
            raise LookupError(f"{path}: there is no command {about['command']!r} version {about['version']}")
        _, _, arguments = codec.decode_command(bytes.fromhex(about["body"]))
        place = (about["index"], about["term"], about["log_time"])
        cases.append(Case(command, arguments, path.with_suffix(".sqlite3"), *place))
    return cases
