"""A database with the queue's tables, and a node of one server whose log time is the time of day, or ahead of it."""

import contextlib

from django.db import connections

from raftlog.backends.log import use_log
from raftlog.backends.node_log import NodeLog
from raftlog.contrib.queue.models import QueuedTask
from raftlog.replication import propose
from raftlog.runtime import clock
from tests.contrib.databases import make_tables
from tests.replication.conftest import default_database, postgresql_database
from tests.replication.node import OneNode
from tests.replication.warehouse.models import MODELS


class ClockNode(OneNode):
    """Its log time is the time of day plus `ahead` seconds."""

    ahead = 0.0

    @property
    def log_time(self) -> int:
        return clock.wall_microseconds() + int(self.ahead * 1e6)

    @log_time.setter
    def log_time(self, value: int) -> None:
        """OneNode's own begins at a fixed time, which this one has no use for."""


@contextlib.contextmanager
def queue_node(folder, *models, vendor="sqlite"):
    """raftlog's backend on a SQLite file, or Django's own on PostgreSQL; both with a node that applies commands."""
    if vendor == "sqlite":
        settings = {"ENGINE": "raftlog.backends.sqlite3", "NAME": str(folder / "db.sqlite3")}
        opened = default_database(settings | {"OPTIONS": {"init_command": "PRAGMA synchronous = OFF"}})
        use_log("default", NodeLog())
    else:
        opened = postgresql_database()
    before = propose._process.factory
    with opened:
        node = ClockNode()
        propose.set_proposer_factory(lambda: node)
        try:
            make_tables(QueuedTask, *(MODELS if vendor == "sqlite" else ()), *models)
            yield node
        finally:
            propose.set_proposer_factory(before)
            node.stop()
            connections.close_all()
