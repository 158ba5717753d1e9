"""Middleware of raftlog, for MIDDLEWARE."""

from raftlog.middleware.conflicts import RetryConflicts
from raftlog.middleware.idempotency import Idempotency
from raftlog.middleware.own_writes import ReadYourWrites

__all__ = ["Idempotency", "ReadYourWrites", "RetryConflicts"]
