"""Settings of the test suite."""

SECRET_KEY = "tests only"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "raftlog",
    "raftlog.contrib.counters",
    "raftlog.contrib.flags",
    "raftlog.contrib.queue",
    "raftlog.contrib.schedule",
    "raftlog.contrib.sequences",
    "raftlog.contrib.locks",
    "raftlog.contrib.cache",
    "raftlog.contrib.ratelimit",
    "demo_site.bank",
    "tests.replication.warehouse",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
