"""A node of the project tests.contrib.clockwork."""

from demo_site.settings import *  # noqa: F403
from demo_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "raftlog.contrib.queue", "raftlog.contrib.schedule", "tests.contrib.clockwork"]
