"""Services that tests use where they are there: a skip with its reason elsewhere, a failure in CI."""

import functools
import getpass
import os
import shutil

import pytest

PG_HOST = os.environ.get("PGHOST", "127.0.0.1")
PG_PORT = int(os.environ.get("PGPORT", "5432"))
PG_DATABASE = os.environ.get("PGDATABASE", "test")


@functools.cache
def _postgresql() -> tuple[str, str]:
    """(user, "") where PostgreSQL can be reached, else ("", why not)."""
    try:
        import psycopg
    except ImportError as error:
        return "", f"psycopg is not installed: {error}"
    why = ""
    for user in dict.fromkeys([os.environ.get("PGUSER", ""), "postgres", getpass.getuser()]):
        if not user:
            continue
        try:
            psycopg.connect(host=PG_HOST, port=PG_PORT, dbname=PG_DATABASE, user=user, connect_timeout=2).close()
        except psycopg.Error as error:
            why = str(error).strip()
        else:
            return user, ""
    return "", f"no PostgreSQL at {PG_HOST}:{PG_PORT}, database {PG_DATABASE}: {why}"


def missing(reason: str) -> None:
    """Skip the test; under CI=true, where the service is promised, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def postgresql(schema: str) -> dict:
    """Django's settings of a PostgreSQL connection that sees only `schema`."""
    user, why = _postgresql()
    if not user:
        missing(why)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": PG_DATABASE,
        "USER": user,
        "HOST": PG_HOST,
        "PORT": PG_PORT,
        "OPTIONS": {"options": f"-c search_path={schema}"},
    }


def chromium() -> str:
    """Path of a Chromium that playwright can drive."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        missing(f"playwright is not installed: {error}")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        missing("no chromium is installed")
    return str(path)
