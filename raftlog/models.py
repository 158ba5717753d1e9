"""Where Django looks for models: raftlog's own tables, and the marker for raftlog.routers."""

from __future__ import annotations

from django.db import models

from raftlog.replication.tables import AppliedIndex, ClientSession, IdempotencyKey, SessionResult, require_table

__all__ = [
    "AppliedIndex",
    "ClientSession",
    "Cluster",
    "IdempotencyKey",
    "ReplicatedModel",
    "SessionResult",
    "require_table",
]


class ReplicatedModel(models.Model):
    """Base of the models that raftlog.routers.ReplicatedRouter puts into the replicated alias. It has no field."""

    class Meta:
        abstract = True


class Cluster(AppliedIndex):
    """The cluster as the admin shows it. It has no rows of its own: permissions and the admin's history refer to it."""

    class Meta:
        proxy = True
        app_label = "raftlog"
        verbose_name = "cluster"
        verbose_name_plural = "cluster"
        default_permissions = ("view",)
        permissions = (
            ("change_members", "Can add, promote, demote, replace and remove members"),
            ("transfer_leadership", "Can hand leadership over"),
            ("view_log", "Can see the log's entries with their values"),
            ("run_digest", "Can compare the rows of all nodes"),
        )
