"""Django for the simulation: the project's own settings where there are some, else the least that works."""

from __future__ import annotations

import django
from django.apps import apps
from django.conf import settings


def ensure_django() -> None:
    """Configure Django once a process. In a process that has settings already, aliases are only added to them."""
    if not settings.configured:
        settings.configure(
            SECRET_KEY="simulation only",
            INSTALLED_APPS=["raftlog"],
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            USE_TZ=True,
        )
    if not apps.ready:
        django.setup()
