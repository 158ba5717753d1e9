"""Settings of `raft bench --batteries`: those of the benchmark's nodes, and every app of raftlog.contrib."""

import importlib.util
import pkgutil

from raftlog import contrib
from raftlog.testing.bench.redis_side import URL
from raftlog.testing.bench_site.settings import *  # noqa: F403
from raftlog.testing.bench_site.settings import INSTALLED_APPS

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    *INSTALLED_APPS,
    "raftlog.testing.bench_site.batteries",
    *sorted(f"{contrib.__name__}.{module.name}" for module in pkgutil.iter_modules(contrib.__path__) if module.ispkg),
]
# "redis" is what the cache is measured beside, where it is installed.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "raftlog": {"BACKEND": "raftlog.contrib.cache.RaftlogCache"},
    "raftlog-hasty": {"BACKEND": "raftlog.contrib.cache.RaftlogCache", "OPTIONS": {"FIRE_AND_FORGET": True}},
}
if importlib.util.find_spec("django_redis") is not None:
    CACHES["redis"] = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL, "KEY_PREFIX": "raftlog-bench"}
