"""System checks of a project with a raftlog ENGINE: each mistake is found, and a right project has none."""

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings

from raftlog import checks as project_checks
from raftlog.backends import checks
from raftlog.replication.registry import registry

OURS = "raftlog.backends.sqlite3"
THREE = {"NODE_ID": "a", "MEMBERS": {"a": "ws://127.0.0.1:8001", "b": "ws://127.0.0.1:8002"}}
FIRST = "raftlog.middleware.RetryConflicts"
LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


def ids(messages):
    return [message.id.removeprefix("raftlog.") for message in messages]


@pytest.fixture
def options(monkeypatch):
    """settings.DATABASES["default"] with our ENGINE; its OPTIONS, for the test to fill."""
    options = {}
    ours = dict(connections.settings["default"], ENGINE=OURS, OPTIONS=options)
    monkeypatch.setitem(connections.settings, "default", ours)
    monkeypatch.setattr(connections["default"], "settings_dict", ours)
    return options


def test_a_stock_engine_is_warned_of_where_there_are_several_nodes(options):
    with override_settings(RAFTLOG=THREE):
        assert ids(checks.check_engine(None)) == []
        connections.settings["default"]["ENGINE"] = "django.db.backends.sqlite3"
        [message] = checks.check_engine(None)
    assert message.id == "raftlog.W004"
    assert repr(OURS) in message.hint
    assert ids(checks.check_engine(None)) == []  # one node


def test_an_engine_of_ours_belongs_to_the_replicated_alias(options, monkeypatch):
    monkeypatch.setitem(connections.settings, "second", dict(connections.settings["default"]))
    [message] = checks.check_engine(None)
    assert message.id == "raftlog.E015"
    assert "'second'" in message.msg


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"isolation": "snapshot", "turn_limit": 5, "init_command": "PRAGMA synchronous=NORMAL;"}, []),
        ({"isolation": "chaos"}, ["E016"]),
        ({"init_command": "PRAGMA synchronous=NORMAL; pragma journal_mode = delete"}, ["E016"]),
        ({"init_command": "PRAGMA main.foreign_keys=OFF"}, ["E016"]),
        ({"transaction_mode": "IMMEDIATE"}, ["W005"]),
    ],
)
def test_options(options, given, expected):
    options |= given
    assert ids(checks.check_options(None)) == expected


def test_an_old_sqlite(options, monkeypatch):
    monkeypatch.setattr(checks.sqlite3, "sqlite_version_info", (3, 34, 1))
    assert ids(checks.check_options(None)) == ["E017"]


OWN = "raftlog.middleware.ReadYourWrites"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
ONCE = "raftlog.middleware.Idempotency"


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        ([FIRST, OWN, SESSIONS, ONCE], ""),
        ([FIRST, SESSIONS, ONCE], ""),
        ([FIRST, SESSIONS, OWN, ONCE], f"{OWN} stands after {SESSIONS} in"),
        ([FIRST, SESSIONS, "other", ONCE, OWN], f"after {SESSIONS} and {ONCE} in"),
    ],
)
def test_what_is_written_after_the_cookie_was_made(options, middleware, words):
    with override_settings(MIDDLEWARE=middleware):
        messages = checks.check_own_writes(None)
    assert ids(messages) == (["W009"] if words else [])
    assert all(words in message.msg for message in messages)


@pytest.mark.parametrize(
    ("middleware", "words"),
    [([], ""), ([FIRST, "other"], ""), (["other"], "lacks"), (["other", FIRST], "not the first")],
)
def test_who_runs_a_request_again(options, middleware, words):
    with override_settings(MIDDLEWARE=middleware):
        messages = checks.check_middleware(None)
    assert ids(messages) == (["W006"] if words else [])
    assert all(words in message.msg for message in messages)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("db", []), ("signed_cookies", []), ("cached_db", []), ("file", ["W007"]), ("cache", ["W007"])],
)
def test_sessions_that_one_host_knows(engine, expected, monkeypatch):
    monkeypatch.setattr(checks.apps, "is_installed", lambda name: True)
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}", CACHES=LOCAL, RAFTLOG=THREE):
        assert ids(checks.check_sessions(None)) == expected
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}", CACHES=LOCAL):
        assert ids(checks.check_sessions(None)) == []


def test_transactions_around_requests_matter_only_to_commands(options, monkeypatch):
    connections.settings["default"] |= {"ATOMIC_REQUESTS": True, "NAME": "db.sqlite3"}
    monkeypatch.setattr(registry, "known", lambda: [("buy", 1)])
    assert ids(project_checks.check_database(None)) == ["W003"]
    monkeypatch.setattr(registry, "known", list)
    assert ids(project_checks.check_database(None)) == []


def test_what_the_database_holds_is_named(make_database, monkeypatch):
    database = make_database()
    monkeypatch.setattr(checks, "_our_alias", lambda: database.connection.alias)
    look = lambda: checks.check_schema(None, databases=[database.connection.alias])  # noqa: E731
    assert look() == []
    raw = database.control
    with raw._internal():
        raw._cursor.execute("CREATE TRIGGER audit AFTER INSERT ON plain BEGIN SELECT 1; END")
        raw._cursor.execute("CREATE VIRTUAL TABLE words USING fts5(body)")
    monkeypatch.setattr(checks, "can_switch_triggers_off", lambda: True)
    [message] = look()
    assert (message.id, "virtual table words" in message.msg) == ("raftlog.E019", True)
    monkeypatch.setattr(checks, "can_switch_triggers_off", lambda: False)
    assert "trigger audit" in look()[1].msg
    assert checks.check_schema(None, databases=None) == []


def test_hooks_of_images(options):
    with override_settings(RAFTLOG={"SNAPSHOT_HOOKS": {"media": "no.such.hook"}}):
        [message] = checks.check_images(None)
    assert message.id == "raftlog.E020"
    with override_settings(RAFTLOG={"SNAPSHOT_HOOKS": {"media": "raftlog.replication.images.media.MediaFiles"}}):
        assert ids(checks.check_images(None)) == (["E020"] if not settings.MEDIA_ROOT else [])


def test_programs_for_images_of_postgresql(options, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "postgresql")
    monkeypatch.setattr(checks.shutil, "which", lambda name: None if name == "pg_restore" else name)
    [message] = checks.check_images(None)
    assert message.id == "raftlog.W008"
    assert message.msg.startswith("pg_restore cannot be found")
