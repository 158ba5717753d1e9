"""System checks of a project whose ENGINE is one of raftlog's, or should be (docs/reference/checks.md)."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.db import connections, models, router

from raftlog.checks import IN_PROCESS_CACHES, error, has_peers, read_settings, warning
from raftlog.exceptions import ImageError
from raftlog.replication.images.hooks import load_hooks
from raftlog.replication.registry import registry
from raftlog.replication.shapes import can_switch_triggers_off

ENGINES: Final = {"sqlite": "raftlog.backends.sqlite3", "postgresql": "raftlog.backends.postgresql"}
MIDDLEWARE: Final = "raftlog.middleware.RetryConflicts"
OWN_WRITES: Final = "raftlog.middleware.ReadYourWrites"
# They write when a response passes them: the session, or the commit of the view's transaction with its record.
WRITERS: Final = ("django.contrib.sessions.middleware.SessionMiddleware", "raftlog.middleware.Idempotency")
# RETURNING (keys of new rows), DROP COLUMN, generated columns shown by table_xinfo.
OLDEST_SQLITE: Final = (3, 35, 0)
# Of PostgreSQL's client package, for images.
PROGRAMS: Final = ("pg_dump", "pg_restore")
# What OPTIONS["init_command"] must not set: the backend sets it, or it would hold on one host alone.
REFUSED_PRAGMAS: Final = (
    *("journal_mode", "locking_mode", "recursive_triggers", "foreign_keys", "writable_schema", "user_version"),
    *("application_id", "ignore_check_constraints", "legacy_alter_table"),
)


def is_ours(alias: str) -> bool:
    return alias in connections.settings and connections.settings[alias]["ENGINE"] in ENGINES.values()


def check_engine(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """W004, E015: which aliases have a raftlog ENGINE, and whether it is the replicated one."""
    settings = read_settings()
    return [] if settings is None or settings.state_machine != "database" else list(_engine(settings.database))


def _engine(replicated: str) -> Iterator[checks.CheckMessage]:
    for alias in connections.settings:
        if alias != replicated and is_ours(alias):
            message = f"DATABASES[{alias!r}] has a raftlog ENGINE, but RAFTLOG['DATABASE'] is {replicated!r}."
            hint = (
                "One alias is replicated: give this one an ENGINE of Django's own, or name it in RAFTLOG['DATABASE']."
            )
            yield error("E015", message, hint)
    if replicated in connections.settings and not is_ours(replicated) and has_peers():
        connection = connections[replicated]
        message = (
            f"DATABASES[{replicated!r}] has ENGINE {connection.settings_dict['ENGINE']}: commands are replicated, and "
            "whatever else is written changes this host alone."
        )
        ours = ENGINES.get(connection.vendor, ENGINES["sqlite"])
        yield warning("W004", message, f"Set its ENGINE to {ours!r}, or silence raftlog.W004 if only commands write.")


def check_options(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E016, E017, W005: OPTIONS of the replicated alias, and the SQLite under it."""
    alias = _our_alias()
    return [] if alias is None or connections[alias].vendor != "sqlite" else list(_sqlite_options(alias))


def _sqlite_options(alias: str) -> Iterator[checks.CheckMessage]:
    options = connections[alias].settings_dict["OPTIONS"]
    isolation = options.get("isolation", "serializable")
    if isolation not in ("serializable", "snapshot"):
        message = f"DATABASES[{alias!r}]['OPTIONS']['isolation'] is {isolation!r}."
        yield error("E016", message, "Use 'serializable' (the default) or 'snapshot'.")
    for name in REFUSED_PRAGMAS:
        if re.search(rf"\bPRAGMA\s+(\w+\.)?{name}\s*[=(]", str(options.get("init_command", "")), re.IGNORECASE):
            message = f"DATABASES[{alias!r}]['OPTIONS']['init_command'] sets PRAGMA {name}."
            yield error("E016", message, "Take it out: the backend sets what it needs (WAL, foreign keys) by itself.")
    if options.get("transaction_mode"):
        message = f"DATABASES[{alias!r}]['OPTIONS']['transaction_mode'] has no effect."
        yield warning(
            "W005", message, "Take it out: transactions begin deferred, and take a turn at their first write."
        )
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        message = f"This Python has SQLite {sqlite3.sqlite_version}; the backend needs {needed} or newer."
        yield error("E017", message, "Use a Python that is linked to a newer SQLite.")


def check_middleware(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """W006: who runs a request again that met a conflict."""
    middleware = list(django_settings.MIDDLEWARE)
    if _our_alias() is None or not middleware or middleware[0] == MIDDLEWARE:
        return []
    if MIDDLEWARE in middleware:
        message = (
            f"{MIDDLEWARE} is not the first of MIDDLEWARE: what stands before it does not run again with a request."
        )
    else:
        message = f"MIDDLEWARE lacks {MIDDLEWARE}: requests that conflict with others fail instead of running again."
    return [warning("W006", message, f"Put {MIDDLEWARE!r} first in MIDDLEWARE.")]


def check_own_writes(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """W009: writes that happen after ReadYourWrites has made the cookie."""
    middleware = list(django_settings.MIDDLEWARE)
    if OWN_WRITES not in middleware:
        return []
    before = [name for name in middleware[: middleware.index(OWN_WRITES)] if name in WRITERS]
    message = (
        f"{OWN_WRITES} stands after {' and '.join(before)} in MIDDLEWARE: what is written there when the response "
        "passes is not in its cookie, and may not be seen by the user's next request."
    )
    hint = f"Put {OWN_WRITES!r} before them, right after {MIDDLEWARE!r}."
    return [warning("W009", message, hint)] if before else []


def check_sessions(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """W007: sessions that only one host knows."""
    engine = django_settings.SESSION_ENGINE.rpartition(".")[2]
    cache = django_settings.CACHES.get(django_settings.SESSION_CACHE_ALIAS, {}).get("BACKEND")
    on_one_host = engine == "file" or (engine == "cache" and cache in IN_PROCESS_CACHES)
    if not on_one_host or not has_peers() or not apps.is_installed("django.contrib.sessions"):
        return []
    message = (
        f"SESSION_ENGINE is {django_settings.SESSION_ENGINE!r}: other hosts do not know who is logged in on this one."
    )
    return [
        warning("W007", message, "Use django.contrib.sessions.backends.db, which is replicated, or signed_cookies.")
    ]


def check_references(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E018: relations between the replicated alias and another one, which no database can hold."""
    settings = read_settings()
    if settings is None or len(connections.settings) < 2:
        return []
    across = sorted(
        f"{model._meta.label}.{field.name}"
        for model in apps.get_models(include_auto_created=True)
        for field in model._meta.get_fields()
        if isinstance(field, (models.ForeignKey, models.ManyToManyField))
        and field.model is model
        and isinstance(target := field.remote_field.model, type)
        and _is_in(model, settings.database) != _is_in(target, settings.database)
    )
    message = f"{', '.join(across)}: one side is in DATABASES[{settings.database!r}], the other is not."
    hint = "Put both models on one side, or keep the other's key in a plain field."
    return [error("E018", message, hint)] if across else []


def _is_in(model: type[models.Model], alias: str) -> bool:
    return router.db_for_write(model) == alias


def check_images(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E020, W008: what images of the database need."""
    settings = read_settings()
    return [] if settings is None or settings.state_machine != "database" else list(_images(settings.database))


def _images(alias: str) -> Iterator[checks.CheckMessage]:
    try:
        load_hooks()
    except ImageError as problem:
        yield error("E020", f"{problem}.", "Name an object or a class with pack(stream) and unpack(stream).")
    if alias in connections.settings and connections[alias].vendor == "postgresql":
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            message = (
                f"{' and '.join(missing)} cannot be found, so no images of DATABASES[{alias!r}] can be made or used."
            )
            hint = (
                "Install the client package of PostgreSQL (Debian: postgresql-client) in the server's version or newer."
            )
            yield warning("W008", message, hint)


def check_schema(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """E019: what stands in the database and cannot be replicated. Only where databases are checked (`migrate`)."""
    alias = _our_alias()
    if alias is None or alias not in (databases or ()) or connections[alias].vendor != "sqlite":
        return []
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT type, name FROM main.sqlite_master"
            " WHERE type = 'trigger' OR sql LIKE 'CREATE VIRTUAL TABLE%%' ORDER BY 1, 2"
        )
        found = cursor.fetchall()
    messages: list[checks.CheckMessage] = []
    for kind, name in found:
        if kind == "trigger" and can_switch_triggers_off():
            continue
        what = "virtual table" if kind == "table" else "trigger"
        hint = (
            "Drop it and do its work in the application; or use Python 3.12, which can switch triggers off on apply."
            if kind == "trigger"
            else "SQLite shows its rows to no trigger: keep it in another database alias."
        )
        messages.append(error("E019", f"DATABASES[{alias!r}] has the {what} {name}, which cannot be replicated.", hint))
    return messages


def atomic_requests_matter(alias: str) -> bool:
    """With an ENGINE of raftlog's, transactions around requests are fine; only commands cannot be proposed inside."""
    return not is_ours(alias) or bool(registry.known())


def _our_alias() -> str | None:
    settings = read_settings()
    return settings.database if settings is not None and is_ours(settings.database) else None
