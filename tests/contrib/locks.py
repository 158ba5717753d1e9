"""A replicated database with the tables of locks, and a node of one server whose log time goes with real time."""

import contextlib

import pytest
from asgiref.sync import SyncToAsync
from django.db import connection, connections

from raftlog.contrib.locks import keeper, models, tables
from raftlog.replication import propose
from raftlog.runtime import clock
from tests.replication.conftest import postgresql_database, sqlite_database
from tests.replication.log import START
from tests.replication.node import OneNode

MODELS = (models.LockClock, models.Holder, models.Waiter, models.NewestToken, models.Done)


class LiveNode(OneNode):
    """Its log time is real time, `rate` times as fast."""

    rate = 1.0

    @property
    def log_time(self) -> int:
        return START + int((clock.monotonic() - self._began) * self.rate * 1e6)

    @log_time.setter
    def log_time(self, value: int) -> None:
        self._began = clock.monotonic()


@contextlib.contextmanager
def lock_tables(vendor, folder):
    opened = sqlite_database(folder) if vendor == "sqlite" else postgresql_database()
    tables._remembered.cache_clear()
    SyncToAsync.single_thread_executor.submit(_forget_connection).result()
    with opened:
        with connection.schema_editor() as editor:
            for model in MODELS:
                editor.create_model(model)
        yield
    SyncToAsync.single_thread_executor.submit(_forget_connection).result()
    tables._remembered.cache_clear()


def _forget_connection():
    """sync_to_async() keeps a thread for ever, whose connection goes to the database of an earlier test."""
    connections["default"].close()
    del connections["default"]


@contextlib.contextmanager
def live_node():
    before = propose._process.factory
    node = LiveNode()
    propose.set_proposer_factory(lambda: node)
    try:
        yield node
    finally:
        node.stop()
        propose.set_proposer_factory(before)


@pytest.fixture(scope="module")
def one_lock_node(tmp_path_factory, django_db_blocker):
    with django_db_blocker.unblock(), lock_tables("sqlite", tmp_path_factory.mktemp("locks")), live_node() as made:
        yield made


@pytest.fixture
def lock_node(one_lock_node, django_db_blocker):
    with django_db_blocker.unblock():
        yield one_lock_node
        one_lock_node.unavailable, one_lock_node.refuse = False, lambda payloads: ""
        one_lock_node.lose_answer = lambda payloads: False
        wait_until(lambda: not keeper.keeper._given_up)
        assert not keeper.keeper._kept, "a test has left a lock behind"
        for model in MODELS:
            model.objects.all().delete()


def wait_until(holds, timeout=60):
    deadline = clock.monotonic() + timeout
    while not holds():
        assert clock.monotonic() < deadline
        clock.sleep(0.005)
