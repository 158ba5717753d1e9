"""Where Django looks for models: raftlog's own tables."""

from __future__ import annotations

from raftlog.replication.tables import AppliedIndex, ClientSession, SessionResult

__all__ = ["AppliedIndex", "ClientSession", "SessionResult"]
