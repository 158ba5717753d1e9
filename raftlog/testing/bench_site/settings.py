"""Settings of the benchmark's nodes, which differ in RAFTLOG_OPTIONS (all of RAFTLOG) and RAFTLOG_DATABASE (a path)."""

import json
import os
from pathlib import Path

BASE_DIR = Path.cwd()
SECRET_KEY = "for benchmarks only: the nodes' keys come in RAFTLOG_OPTIONS"
RAFTLOG = json.loads(os.environ.get("RAFTLOG_OPTIONS", "{}"))
INSTALLED_APPS = ["raftlog", "raftlog.testing.bench_site"]
# A peer that is measured beside raftlog is Django's own backend, with every commit on disk before it returns.
ENGINE = os.environ.get("RAFTLOG_BENCH_ENGINE", "raftlog.backends.sqlite3")
STOCK_OPTIONS = {"timeout": 120, "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"}
DATABASES = {
    "default": {
        "ENGINE": ENGINE,
        "NAME": os.environ.get("RAFTLOG_DATABASE", "bench.sqlite3"),
        "OPTIONS": STOCK_OPTIONS if ENGINE == "django.db.backends.sqlite3" else {},
    },
}
ASGI_APPLICATION = "raftlog.testing.bench_site.asgi.application"
ROOT_URLCONF = "raftlog.testing.bench_site.urls"
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
