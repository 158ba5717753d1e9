"""A replicated database for each test: a SQLite file, or a schema in PostgreSQL."""

import asyncio
import contextlib
import os
import threading
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections

from raftlog.backends.log import InlineLog, use_log
from raftlog.replication import propose
from tests import services
from tests.replication.warehouse.models import MODELS


@contextlib.contextmanager
def default_database(settings_of_it: dict):
    """`settings_of_it` stand for DATABASES["default"], in all threads."""
    before, connection_before = connections.settings["default"], connections["default"]
    connections.settings["default"] = connections.configure_settings({"default": settings_of_it})["default"]
    connections["default"] = connections.create_connection("default")
    propose.limits.cache_clear()
    try:
        yield
    finally:
        connections["default"].close()
        connections.settings["default"] = before
        connections["default"] = connection_before


def run_async(coroutine):
    """asyncio.run(), after which the thread of asgiref that all tests share holds no connection of this one."""

    def forget():
        connections["default"].close()
        del connections["default"]

    async def run():
        try:
            return await coroutine
        finally:
            await sync_to_async(forget)()

    return asyncio.run(run())


def make_tables() -> None:
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)


@contextlib.contextmanager
def sqlite_database(folder, engine="django.db.backends.sqlite3"):
    name = folder / f"{uuid.uuid4().hex}.sqlite3"
    with default_database({"ENGINE": engine, "NAME": str(name)}):
        make_tables()
        yield


@contextlib.contextmanager
def postgresql_database():
    schema = f"raftlog_{os.getpid()}_{threading.get_ident()}"
    with default_database(services.postgresql(schema)):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
        try:
            make_tables()
            yield
        finally:
            connection.close()
            with connection.cursor() as cursor:
                cursor.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def sqlite(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), sqlite_database(tmp_path):
        yield


@pytest.fixture
def replicated_sqlite(tmp_path, django_db_blocker):
    """Opens a database of the replicated backend, with the warehouse's tables, as often as it is called."""
    use_log("default", InlineLog())

    @contextlib.contextmanager
    def opened():
        with django_db_blocker.unblock(), sqlite_database(tmp_path, "raftlog.backends.sqlite3"):
            yield

    return opened


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, django_db_blocker):
    """Every case that both vendors must pass."""
    made = sqlite_database(tmp_path) if request.param == "sqlite" else postgresql_database()
    with django_db_blocker.unblock(), made:
        yield request.param
