"""A small project whose app comes from the code directory that PYTHONPATH names: v1 or v2."""

from demo_site.settings import *  # noqa: F403

INSTALLED_APPS = ["raftlog", "upgraded_shop"]
MIDDLEWARE = []
TEMPLATES = []
ROOT_URLCONF = "tests.processes.upgrade.urls"
del ASGI_APPLICATION, WSGI_APPLICATION  # noqa: F821
