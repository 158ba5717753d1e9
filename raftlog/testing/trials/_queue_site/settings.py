"""A node, or a worker beside it: RAFTLOG_OPTIONS (all of RAFTLOG) and RAFTLOG_DATABASE (a path) differ."""

from raftlog.testing.bench_site.settings import *  # noqa: F403

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "raftlog",
    "raftlog.contrib.queue",
    "raftlog.contrib.schedule",
    "raftlog.testing.trials._queue_site",
]
