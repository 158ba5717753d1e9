"""Settings of the nodes and clients of a trial, which differ in RAFTLOG_OPTIONS and RAFTLOG_DATABASE."""

import json
import os
from pathlib import Path

BASE_DIR = Path.cwd()
SECRET_KEY = "for trials only: the nodes' keys come in RAFTLOG_OPTIONS"
RAFTLOG = json.loads(os.environ.get("RAFTLOG_OPTIONS", "{}"))
INSTALLED_APPS = ["raftlog", "raftlog.testing.once_site"]
DATABASES = {
    "default": {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": os.environ.get("RAFTLOG_DATABASE", "trial.sqlite3"),
        "OPTIONS": {"init_command": "PRAGMA synchronous=NORMAL;"},
    },
}
ROOT_URLCONF = "raftlog.testing.once_site.urls"
ASGI_APPLICATION = "raftlog.testing.once_site.asgi.application"
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
