"""What a reader of the change feed gets."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Field, Model

from raftlog.replication.changes import NAMES, Group


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """What happened to one row; or to a table, where `key` is empty.

    `operation`: "insert", "update", "delete"; "table": rows of it changed that are not named (too many in one entry, or
    it has no primary key); "schema": the table was made, altered, renamed (both names are told) or dropped.
    `key`: the values of the primary key, as the model's fields know them; as stored where no model has the table.
    `columns`: of an update the names of the columns that changed, () otherwise.
    """

    table: str
    operation: str
    key: tuple[Any, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def pk(self) -> Any:
        """The primary key as the ORM wants it: one value, or the tuple of a composite key; None without one."""
        return None if not self.key else self.key[0] if len(self.key) == 1 else self.key

    @property
    def model(self) -> type[Model] | None:
        """The model of the table, None where this project has none."""
        return models_by_table().get(self.table)


@dataclass(frozen=True, slots=True)
class Change:
    """What one entry of the log changed, whole: who has dealt with all its rows saves `index`, and goes on from it.

    `rows`: in the order in which they changed; those of the tables that were asked for. `command`: the name of the
    command that was run, "" where it was a transaction. `from_here`: this process has run what made the change (its own
    transaction, or, in the node's process, a command), so Django's own signals have been sent in it.
    """

    index: int
    rows: tuple[ChangedRow, ...]
    command: str = ""
    from_here: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """Changes before `index` are not known any more, or an image was installed: whatever was made from them must be
    made anew, from the rows as they are now. The feed goes on after `index`."""

    index: int


@dataclass(frozen=True, slots=True)
class Progress:
    """For a while nothing has changed; all that has, up to `index`, was told, so that it may be saved."""

    index: int


@functools.cache
def models_by_table() -> dict[str, type[Model]]:
    """Called once the apps are ready."""
    found = apps.get_models(include_auto_created=True)
    return {model._meta.db_table: model for model in found if not model._meta.proxy}


@functools.cache
def _key_fields(table: str) -> Sequence[Field[Any, Any]]:
    model = models_by_table().get(table)
    return [] if model is None else list(getattr(model._meta, "pk_fields", None) or [model._meta.pk])


def rows_of(groups: Iterable[Group], tables: frozenset[str]) -> tuple[ChangedRow, ...]:
    """The rows of the wanted tables (none named: all)."""
    rows: list[ChangedRow] = []
    for group in groups:
        if tables and group.table not in tables:
            continue
        operation, columns = NAMES[group.operation], tuple(group.columns)
        if not group.keys:
            rows.append(ChangedRow(group.table, operation))
        rows += [ChangedRow(group.table, operation, _as_python(group.table, key), columns) for key in group.keys]
    return tuple(rows)


def _as_python(table: str, key: Sequence[Any]) -> tuple[Any, ...]:
    fields = _key_fields(table)
    if len(fields) != len(key):
        return tuple(key)
    return tuple(_value(field, stored) for field, stored in zip(fields, key, strict=True))


def _value(field: Field[Any, Any], stored: Any) -> Any:
    try:
        return field.to_python(stored)
    except (ValidationError, ValueError, TypeError):  # not what the model says is stored there
        return stored
