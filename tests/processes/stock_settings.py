"""The demo's settings with Django's own SQLite backend, where only commands are replicated."""

from demo_site.settings import *  # noqa: F403
from demo_site.settings import DATABASES as _DATABASES

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _DATABASES["default"]["NAME"]}}
