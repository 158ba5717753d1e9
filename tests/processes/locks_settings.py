"""The demo's settings with locks and elections."""

from demo_site.settings import *  # noqa: F403
from demo_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "raftlog.contrib.locks", "raftlog.contrib.leader"]
