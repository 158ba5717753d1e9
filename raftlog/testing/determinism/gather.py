"""From examples, fixtures and recordings to cases; and which commands have none."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management import call_command
from django.db import connections

from raftlog.exceptions import RaftlogError
from raftlog.replication.propose import limits
from raftlog.replication.registry import Command, registry
from raftlog.testing.cluster_databases import STOCK, make_wrapper, redirected, template_for
from raftlog.testing.determinism import Example, examples
from raftlog.testing.determinism.cases import Case, load, make_case


class NoSuchLabel(RaftlogError):
    """A label is neither an app with commands nor a command."""


def commands(labels: Sequence[str] = ()) -> list[Command]:
    """Those with these labels ("shop", "shop.buy"); without labels all but those of raftlog's own batteries.

    Raises NoSuchLabel.
    """
    known = [found for name, version in registry.known() if (found := registry.get(name, version)) is not None]
    if not labels:
        return [command for command in known if not command.__module__.startswith("raftlog.")]
    for label in labels:
        if not any(_has_label(command, label) for command in known):
            have = ", ".join(sorted({_app_of(command) for command in known})) or "none"
            raise NoSuchLabel(f"{label!r} is neither a command nor an app with commands; these apps have some: {have}")
    return [command for command in known if any(_has_label(command, label) for label in labels)]


def _has_label(command: Command, label: str) -> bool:
    return label in (command.name, _app_of(command))


def _app_of(command: Command) -> str:
    app = apps.get_containing_app_config(command.__module__)
    return app.label if app else command.__module__


def cases_of(wanted: Iterable[Command], fixtures: Sequence[str], recorded: Path | None, folder: Path) -> list[Case]:
    """Those recorded, and those of @example on a migrated database that holds the fixtures. Copies go into `folder`.

    Raises what fixtures and `given` functions raise, OSError, LookupError.
    """
    known = set(wanted)
    found = [case for case in load(recorded) if case.command in known] if recorded else []
    chosen = [one for one in examples() if one.command in known]
    return found + (_from_examples(chosen, fixtures, folder) if chosen else [])


def _from_examples(chosen: Sequence[Example], fixtures: Sequence[str], folder: Path) -> list[Case]:
    alias = limits().alias
    settings: dict[str, Any] = dict(connections.settings[alias])
    base, given_to = folder / "base.sqlite3", folder / "given.sqlite3"
    shutil.copyfile(template_for(alias, settings), base)
    if fixtures:
        with redirected(alias, make_wrapper(alias, settings, STOCK, base)):
            call_command("loaddata", *fixtures, database=alias, verbosity=0)
    cases = []
    for number, one in enumerate(chosen):
        shutil.copyfile(base, given_to)
        with redirected(alias, make_wrapper(alias, settings, STOCK, given_to)):
            if one.given is not None:
                one.given()
            cases.append(make_case(one.command, one.arguments, folder / f"example-{number}.sqlite3", alias=alias))
    return cases
