"""A replicated database with the tables of a battery, and a node that applies commands to it."""

import pytest
from asgiref.sync import SyncToAsync
from django.db import connection, connections

from raftlog.backends.log import InlineLog, use_log
from raftlog.replication import propose
from tests.backends import postgresql as databases
from tests.replication.conftest import default_database
from tests.replication.node import OneNode


def make_tables(*models):
    with connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)


@pytest.fixture
def stock_file(tmp_path, django_db_blocker):
    """Django's own backend on a file: what commands of a OneNode are applied to."""
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    with django_db_blocker.unblock(), default_database(settings):
        yield
        SyncToAsync.single_thread_executor.submit(forget_connection).result()


def forget_connection():
    """sync_to_async() keeps a thread for ever, whose connection goes to the database of an earlier test."""
    connections["default"].close()
    del connections["default"]


@pytest.fixture
def inline(tmp_path, django_db_blocker):
    """raftlog's own backend on a file, with a log that applies at once."""
    settings = {"ENGINE": "raftlog.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    settings["OPTIONS"] = {"init_command": "PRAGMA synchronous = OFF"}
    with django_db_blocker.unblock():
        use_log("default", InlineLog())
        with default_database(settings):
            yield
            connections.close_all()


@pytest.fixture
def postgresql(django_db_blocker):
    """As inline, the other vendor."""
    with django_db_blocker.unblock():
        use_log("default", InlineLog())
        with default_database(databases.settings(0)):
            yield
            connections.close_all()


@pytest.fixture
def node(stock_file, monkeypatch):
    """Proposals of this process are applied at once, by a thread of its own."""
    monkeypatch.setattr(propose, "ANSWER_GRACE", 0.0)
    before = propose._process.factory
    made = OneNode()
    propose.set_proposer_factory(lambda: made)
    yield made
    made.stop()
    propose.set_proposer_factory(before)
