"""System checks name what is wrong with a project, and what of it is not replicated."""

import pytest
from django.core.files.storage import FileSystemStorage
from django.db import connections, models
from django.test import override_settings
from django.test.utils import isolate_apps

from raftlog import checks

MEMBERS = {"a": "ws://127.0.0.1:8001", "b": "ws://127.0.0.1:8002"}
THREE_NODES = {"NODE_ID": "a", "MEMBERS": MEMBERS}


def ids(messages):
    return [message.id for message in messages]


@override_settings(RAFTLOG={"NODEID": "a"})
def test_a_mistake_in_the_settings_becomes_an_error_with_hint_and_anchor():
    [message] = checks.check_settings(None)
    assert message.id == "raftlog.E002"
    assert "'NODE_ID'" in message.hint
    assert message.hint.endswith("docs/reference/checks.md#e002")
    assert checks.check_database(None) == []  # said once


@override_settings(RAFTLOG={"DATABASE": "nowhere"})
def test_an_unknown_alias_is_an_error():
    [message] = checks.check_database(None)
    assert message.id == "raftlog.E011"
    assert "default" in message.hint


@pytest.fixture
def options(monkeypatch):
    """The options of the default database, as a project would set them."""
    options = dict(connections["default"].settings_dict, NAME="db.sqlite3")
    monkeypatch.setattr(connections["default"], "settings_dict", options)
    return options


def test_a_file_is_fine(options):
    assert checks.check_database(None) == []


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory&cache=shared"])
def test_a_database_in_memory_is_an_error(options, name):
    options["NAME"] = name
    assert ids(checks.check_database(None)) == ["raftlog.E012"]


def test_the_test_runners_own_database_in_memory_is_not(options):
    options["NAME"] = "file:memorydb_default?mode=memory&cache=shared"
    assert checks.check_database(None) == []


def test_a_vendor_that_cannot_be_replicated_is_an_error(options, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "oracle")
    assert ids(checks.check_database(None)) == ["raftlog.E013"]


def test_transactions_around_everything_are_named(options):
    options["AUTOCOMMIT"] = False
    options["ATOMIC_REQUESTS"] = True
    assert ids(checks.check_database(None)) == ["raftlog.E014", "raftlog.W003"]


@override_settings(RAFTLOG={"STATE_MACHINE": "log", "DATABASE": "nowhere"})
def test_a_log_without_a_database_needs_none():
    assert checks.check_database(None) == []


LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@override_settings(CACHES=LOCAL, RAFTLOG=THREE_NODES)
def test_an_in_process_cache_is_warned_of_where_there_are_several_nodes():
    [message] = checks.check_caches(None)
    assert message.id == "raftlog.W002"
    assert "'default'" in message.msg


@override_settings(CACHES=LOCAL)
def test_one_node_may_cache_as_it_likes():
    assert checks.check_caches(None) == []


@isolate_apps("tests.surface")
@pytest.mark.parametrize(("settings", "expected"), [(THREE_NODES, ["raftlog.W001"]), ({}, [])])
def test_files_that_are_kept_on_one_host_are_warned_of(settings, expected, monkeypatch):
    class Photo(models.Model):  # noqa: DJ008 (never shown)
        image = models.FileField(storage=FileSystemStorage())

        class Meta:
            app_label = "surface"

    monkeypatch.setattr(checks.apps, "get_models", lambda: [Photo])
    with override_settings(RAFTLOG=settings):
        messages = checks.check_media(None)
    assert ids(messages) == expected
    assert all("Photo.image" in message.msg for message in messages)


@pytest.mark.parametrize(("alias", "found"), [("default", []), ("", []), ("none-such", ["raftlog.E004"])])
def test_backups_go_to_a_storage_that_there_is(alias, found):
    with override_settings(RAFTLOG={"BACKUP_STORAGE": alias} if alias else {}):
        assert ids(checks.check_backups(None)) == found
