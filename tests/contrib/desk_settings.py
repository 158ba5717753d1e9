"""A node of the project tests.contrib.desk."""

from demo_site.settings import *  # noqa: F403
from demo_site.settings import INSTALLED_APPS

INSTALLED_APPS = [
    *INSTALLED_APPS,
    "raftlog.contrib.counters",
    "raftlog.contrib.flags",
    "raftlog.contrib.sequences",
    "tests.contrib.desk",
]
