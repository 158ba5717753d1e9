"""System checks: raftlog.E… for what cannot work, raftlog.W… for what is not replicated.

`conf` finds what is wrong inside RAFTLOG (E001 to E010); here is what only the whole project shows.
Each is explained in docs/reference/checks.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.files.storage import FileSystemStorage
from django.db import connections
from django.db.models import FileField

from raftlog import conf

TAG = "raftlog"
VENDORS = ("sqlite", "postgresql")
IN_PROCESS_CACHES = (
    "django.core.cache.backends.locmem.LocMemCache",
    "django.core.cache.backends.filebased.FileBasedCache",
)


def register_all() -> None:
    """Called once, when the app is ready."""
    from raftlog.backends import checks as backend  # it needs this module

    for check in (check_settings, check_database, check_backups, check_media, check_caches):
        checks.register(check, TAG)
    for check in (
        backend.check_engine,
        backend.check_options,
        backend.check_middleware,
        backend.check_own_writes,
        backend.check_sessions,
        backend.check_references,
        backend.check_images,
    ):
        checks.register(check, TAG)
    checks.register(backend.check_schema, checks.Tags.database)


def check_settings(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E001 to E010: RAFTLOG itself, key by key."""
    return [error(problem.code, problem.message, problem.hint) for problem in conf.find_problems()]


def check_database(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E011 to E014, W003: the alias that holds the replicated state."""
    settings = read_settings()
    return [] if settings is None or settings.state_machine != "database" else list(_database(settings.database))


def _database(alias: str) -> Iterator[checks.CheckMessage]:
    if alias not in connections.settings:
        known = ", ".join(sorted(connections.settings))
        hint = f"Set it to one of them ({known}), or add it to DATABASES."
        yield error("E011", f"RAFTLOG['DATABASE'] is {alias!r}, which is not in DATABASES.", hint)
        return
    from raftlog.backends.checks import atomic_requests_matter  # it needs this module

    connection = connections[alias]
    options = connection.settings_dict
    if connection.vendor not in VENDORS:
        message = f"DATABASES[{alias!r}] is {connection.vendor}, which cannot be replicated."
        yield error("E013", message, "Use SQLite or PostgreSQL for it, or set RAFTLOG['DATABASE'] to one that does.")
    if connection.vendor == "sqlite" and _is_in_memory(str(options["NAME"])):
        message = f"DATABASES[{alias!r}] is in memory, and would forget what the log says was applied."
        yield error("E012", message, f"Give DATABASES[{alias!r}]['NAME'] the path of a file.")
    if not options["AUTOCOMMIT"]:
        message = f"DATABASES[{alias!r}]['AUTOCOMMIT'] is False, so every proposal is made inside a transaction."
        yield error("E014", message, "Remove it: a proposal inside an open transaction would wait for itself.")
    if options["ATOMIC_REQUESTS"] and atomic_requests_matter(alias):
        message = f"DATABASES[{alias!r}]['ATOMIC_REQUESTS'] is on, so a view cannot propose a command."
        yield warning("W003", message, "Turn it off, or mark the views that propose with @non_atomic_requests.")


def _is_in_memory(name: str) -> bool:
    # Django's test runner puts a database in memory by itself, under this name: that is no mistake of the settings.
    if name.startswith("file:memorydb_"):
        return False
    return name == ":memory:" or "mode=memory" in name


def check_backups(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E004: where backups are kept."""
    settings, known = read_settings(), django_settings.STORAGES
    if settings is None or not settings.backup_storage or settings.backup_storage in known:
        return []
    message = f"RAFTLOG['BACKUP_STORAGE'] is {settings.backup_storage!r}, which is not in STORAGES."
    return [error("E004", message, f"Add it there, or use one of {', '.join(known)}.")]


def check_media(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """W001: uploaded files stay on the host that received them."""
    fields = [
        f"{model._meta.label}.{field.name}"
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, FileField) and isinstance(field.storage, FileSystemStorage)
    ]
    if not fields or not has_peers():
        return []
    message = f"Files of {', '.join(fields)} are stored on one host and are not replicated."
    return [warning("W001", message, "Store them where all nodes reach them (object storage, a shared folder).")]


def check_caches(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """W002: what one process caches, the others do not see, nor see invalidated."""
    aliases = [
        alias for alias, options in django_settings.CACHES.items() if options.get("BACKEND") in IN_PROCESS_CACHES
    ]
    if not aliases or not has_peers():
        return []
    message = f"CACHES {', '.join(map(repr, aliases))} belong to one process or host and are not replicated."
    hint = "Use a cache that all nodes share where stale entries matter, or silence raftlog.W002 where they don't."
    return [warning("W002", message, hint)]


def read_settings() -> conf.Settings | None:
    """The settings, or None where check_settings has said what is wrong with them."""
    try:
        return conf.load_settings()
    except conf.SettingsError:
        return None


def has_peers() -> bool:
    settings = read_settings()
    return settings is not None and len(settings.members) > 1


def error(code: str, message: str, hint: str) -> checks.Error:
    return checks.Error(message, hint=_with_anchor(code, hint), id=f"raftlog.{code}")


def warning(code: str, message: str, hint: str) -> checks.Warning:
    return checks.Warning(message, hint=_with_anchor(code, hint), id=f"raftlog.{code}")


def _with_anchor(code: str, hint: str) -> str:
    return f"{hint} See docs/reference/checks.md#{code.lower()}"
