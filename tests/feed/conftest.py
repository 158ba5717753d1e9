"""One node without Raft, and this process as its application, on both vendors."""

import contextlib
import threading

import pytest
from django.db import connections

from raftlog.backends.log import use_log
from raftlog.backends.node_log import NodeLog
from raftlog.feed import values, watching
from raftlog.replication import propose
from tests.backends import postgresql
from tests.feed.models import MODELS
from tests.replication.conftest import default_database
from tests.replication.node import OneNode


def sqlite_settings(folder):
    return {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": str(folder / "db.sqlite3"),
        "OPTIONS": {"init_command": "PRAGMA synchronous = OFF"},
    }


@contextlib.contextmanager
def running(settings):
    use_log("default", NodeLog())
    with default_database(settings):
        made = OneNode()
        propose.set_proposer_factory(lambda: made)
        try:
            with connections["default"].schema_editor() as editor:
                for model in MODELS:
                    editor.create_model(model)
            made.settle()
            yield made
        finally:
            propose.set_proposer_factory(None)
            made.stop()


@pytest.fixture(autouse=True)
def _no_node(monkeypatch, django_db_blocker):
    """Readers look at the database themselves: no `raft run` is asked."""
    with django_db_blocker.unblock():
        yield from _readers(monkeypatch)


def _readers(monkeypatch):
    values._key_fields.cache_clear()
    monkeypatch.setattr(values, "models_by_table", lambda: {model._meta.db_table: model for model in MODELS})
    monkeypatch.setattr(watching, "POLL_INTERVAL", 0.005)
    monkeypatch.setattr(watching, "LINGER", 0.05)
    yield
    for thread in threading.enumerate():  # before the database is out of bounds
        if thread.name == "raftlog-feed":
            thread.join(10)


@pytest.fixture
def node(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), running(sqlite_settings(tmp_path)) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def any_node(request, tmp_path, django_db_blocker):
    settings = sqlite_settings(tmp_path) if request.param == "sqlite" else postgresql.settings(0)
    with django_db_blocker.unblock(), running(settings) as made:
        yield made
