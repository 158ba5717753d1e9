"""Settings of a torture run's nodes and clients, which differ in RAFTLOG_OPTIONS and RAFTLOG_DATABASE.

RAFTLOG_ENGINE=raftlog.backends.sqlite3 replicates what plain ORM code writes, too. RAFTLOG_DATABASE_OPTIONS (JSON)
stands in for OPTIONS.
"""

import json
import os
from pathlib import Path

BASE_DIR = Path.cwd()
SECRET_KEY = "for torture runs only: the nodes' keys come in RAFTLOG_OPTIONS"
RAFTLOG = json.loads(os.environ.get("RAFTLOG_OPTIONS", "{}"))
INSTALLED_APPS = ["raftlog", "raftlog.testing.torture_site"]
_OPTIONS = {
    "django.db.backends.sqlite3": {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
    "raftlog.backends.sqlite3": {"init_command": "PRAGMA synchronous=NORMAL;"},
}
_ENGINE = os.environ.get("RAFTLOG_ENGINE", "django.db.backends.sqlite3")
DATABASES = {
    "default": {
        "ENGINE": _ENGINE,
        "NAME": os.environ.get("RAFTLOG_DATABASE", "torture.sqlite3"),
        "OPTIONS": json.loads(os.environ.get("RAFTLOG_DATABASE_OPTIONS", "null")) or _OPTIONS[_ENGINE],
    },
}
ASGI_APPLICATION = "raftlog.testing.torture_site.asgi.application"
ROOT_URLCONF = "raftlog.testing.torture_site.urls"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"raftlog": {"handlers": ["console"], "level": "INFO"}},
}
