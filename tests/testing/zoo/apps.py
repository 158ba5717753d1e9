"""An app of commands that are not deterministic, each in its own way, and of some that are."""

from django.apps import AppConfig


class ZooConfig(AppConfig):
    name = "tests.testing.zoo"
    label = "zoo"
    default_auto_field = "django.db.models.BigAutoField"
