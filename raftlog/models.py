"""Where Django looks for models: raftlog's own tables, and the marker for raftlog.routers."""

from __future__ import annotations

from django.db import models

from raftlog.replication.tables import AppliedIndex, ClientSession, IdempotencyKey, SessionResult

__all__ = ["AppliedIndex", "ClientSession", "IdempotencyKey", "ReplicatedModel", "SessionResult"]


class ReplicatedModel(models.Model):
    """Base of the models that raftlog.routers.ReplicatedRouter puts into the replicated alias. It has no field."""

    class Meta:
        abstract = True
