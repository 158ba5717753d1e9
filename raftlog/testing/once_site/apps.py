"""Its tables are made by `migrate --run-syncdb`."""

from __future__ import annotations

from django.apps import AppConfig


class OnceConfig(AppConfig):
    name = "raftlog.testing.once_site"
    label = "once_site"
    default_auto_field = "django.db.models.BigAutoField"
