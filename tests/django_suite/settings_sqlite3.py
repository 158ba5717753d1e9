"""Settings of a run on raftlog.backends.sqlite3."""

from tests.django_suite.settings_stock import *  # noqa: F403
from tests.django_suite.settings_stock import database

DATABASES = {alias: database("raftlog.backends.sqlite3", alias) for alias in ("default", "other")}
