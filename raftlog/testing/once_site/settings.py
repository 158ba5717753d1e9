"""Settings of the nodes and clients of a trial, which differ in RAFTLOG_OPTIONS and RAFTLOG_DATABASE."""

import os

from raftlog.testing.torture_site.settings import *  # noqa: F403

SECRET_KEY = "for trials only: the nodes' keys come in RAFTLOG_OPTIONS"
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
