"""For projects that replicate only some of their models, in a database alias of its own.

    DATABASE_ROUTERS = ["raftlog.routers.ReplicatedRouter"]
    RAFTLOG = {"DATABASE": "replicated", …}

Models that derive from `raftlog.models.ReplicatedModel` live in the replicated alias, all others anywhere else.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import models

from raftlog.conf import load_settings
from raftlog.models import ReplicatedModel


def is_replicated(model: type[models.Model]) -> bool:
    """Whether it is marked, or the table of a ManyToManyField of one that is, or raftlog's own."""
    owner = model._meta.auto_created
    if isinstance(owner, type):
        return is_replicated(owner)
    return issubclass(model, ReplicatedModel) or model._meta.app_label == "raftlog"


class ReplicatedRouter:
    """Django's router protocol. It says nothing of models that are not replicated, but keeps them out of the alias."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str | None:
        return load_settings().database if is_replicated(model) else None

    db_for_write = db_for_read

    def allow_relation(self, first: models.Model, second: models.Model, **hints: Any) -> bool | None:
        sides = {is_replicated(type(first)), is_replicated(type(second))}
        return sides == {True} if True in sides else None

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        """What names no model (RunPython, RunSQL) belongs where all of its app's models do.

        So does a model that the code does not have any more. Where an app has both kinds, say which with
        `hints={"model_name": …}` or `hints={"replicated": True}`.
        """
        wanted = self._belongs(app_label, model_name or hints.get("model_name"), hints.get("replicated"))
        if wanted is None:
            return None
        in_alias = db == load_settings().database
        return in_alias if wanted else (False if in_alias else None)

    def _belongs(self, app_label: str, model_name: str | None, stated: bool | None) -> bool | None:
        """True: in the replicated alias; False: not; None: anywhere."""
        if stated is not None:
            return stated
        if app_label not in apps.app_configs:
            return False
        known = {model._meta.model_name: model for model in apps.get_app_config(app_label).get_models()}
        if model_name and model_name.lower() in known:
            return is_replicated(known[model_name.lower()])
        sides = {is_replicated(model) for model in known.values()}
        return sides.pop() if len(sides) == 1 else None
