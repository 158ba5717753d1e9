"""The demo's settings with the replicated backend, and sessions in the database like any project's."""

from demo_site.settings import *  # noqa: F403
from demo_site.settings import DATABASES as _DATABASES

DATABASES = {
    "default": {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": _DATABASES["default"]["NAME"],
        "OPTIONS": {"timeout": 20, "init_command": "PRAGMA synchronous=NORMAL;"},
    }
}
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.sessions"]  # noqa: F405
SESSION_ENGINE = "django.contrib.sessions.backends.db"
