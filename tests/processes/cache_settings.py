"""The demo's settings with the replicated cache and rate limits."""

from demo_site.settings import *  # noqa: F403
from demo_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "raftlog.contrib.cache", "raftlog.contrib.ratelimit"]
CACHES = {"default": {"BACKEND": "raftlog.contrib.cache.RaftlogCache"}}
