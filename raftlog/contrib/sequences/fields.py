"""Model fields that draw their number when a row is saved for the first time."""

from __future__ import annotations

import datetime
from typing import Any

from django.db import models

from raftlog.contrib.sequences import api
from raftlog.contrib.sequences.api import Restart


class _Drawn(models.Field):
    """What both have in common. A value that is set by hand (a fixture, draw() in a command) is left as it is."""

    def __init__(
        self, sequence: str, *args: Any, restart: Restart = "never", date_field: str = "", **kwargs: Any
    ) -> None:
        """
        Args:
            sequence: its name.
            restart: "never", "year", "month", "day".
            date_field: the model's field whose date says which year, month or day; by default that of now.
        """
        self.sequence = sequence
        self.restart: Restart = restart
        self.date_field = date_field
        kwargs.setdefault("editable", False)
        kwargs.setdefault("unique", True)
        kwargs.setdefault("blank", True)
        super().__init__(*args, **kwargs)
        api.key_of(sequence, restart, datetime.date(2000, 1, 1))

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        kwargs |= {"sequence": self.sequence, "editable": self.editable, "unique": self.unique, "blank": self.blank}
        if self.restart != "never":
            kwargs["restart"] = self.restart
        if self.date_field:
            kwargs["date_field"] = self.date_field
        return name, path, args, kwargs

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = getattr(model_instance, self.attname)
        if not add or value not in (None, ""):
            return value
        at = getattr(model_instance, self.date_field) if self.date_field else None
        value = self._draw(at)
        setattr(model_instance, self.attname, value)
        return value

    def _draw(self, at: datetime.date | None) -> Any:
        raise NotImplementedError


class SequenceNumberField(_Drawn, models.BigIntegerField):
    """`number = SequenceNumberField("invoice")`: 1, 2, 3, … A save that draws must stand in a transaction."""

    def _draw(self, at: datetime.date | None) -> int:
        return api.next_number(self.sequence, restart=self.restart, at=at)


class SequenceLabelField(_Drawn, models.CharField):
    """`label = SequenceLabelField("invoice", form="{year}-{number:04}", restart="year")`: "2026-0001", …"""

    def __init__(self, sequence: str, form: str = "{number}", **kwargs: Any) -> None:
        self.form = form
        kwargs.setdefault("max_length", 50)
        super().__init__(sequence, **kwargs)
        api.check_form(form, {})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, kwargs | {"form": self.form}

    def _draw(self, at: datetime.date | None) -> str:
        return api.next_label(self.sequence, self.form, restart=self.restart, at=at)
