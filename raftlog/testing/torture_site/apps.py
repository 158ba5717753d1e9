"""The torture run's app. Its tables are made by `migrate --run-syncdb`."""

import os

from django.apps import AppConfig


class TortureConfig(AppConfig):
    name = "raftlog.testing.torture_site"
    label = "torture"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        if name := os.environ.get("RAFTLOG_TORTURE_MUTATION"):
            from raftlog.testing.torture_site.mutations import MUTATIONS, OF_THE_FEED

            (MUTATIONS | OF_THE_FEED)[name]()
