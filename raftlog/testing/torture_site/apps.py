"""The torture run's app. Its tables are made by `migrate --run-syncdb`."""

from django.apps import AppConfig


class TortureConfig(AppConfig):
    name = "raftlog.testing.torture_site"
    label = "torture"
    default_auto_field = "django.db.models.BigAutoField"
