"""A project whose app is the zoo."""

from tests.settings import DATABASES, DEFAULT_AUTO_FIELD, SECRET_KEY, USE_TZ  # noqa: F401

INSTALLED_APPS = ["django.contrib.contenttypes", "raftlog", "tests.testing.zoo.apps.ZooConfig"]
