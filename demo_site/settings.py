"""Settings of the demo: a small bank whose database is replicated.

With no environment variable at all it is one node. Several nodes share these settings and differ in:

RAFTLOG_NODE_ID        this node's name, such as b
RAFTLOG_MEMBERS        all of them: a=ws://127.0.0.1:8001,b=ws://127.0.0.1:8002,c=ws://127.0.0.1:8003
RAFTLOG_DATA_DIR       this node's folder (default: demo-data/<node id> beside manage.py)
RAFTLOG_DATABASE       this node's SQLite file (default: db.sqlite3 in that folder)
RAFTLOG_OPTIONS        more keys of RAFTLOG, as a JSON object
"""

import json
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "the demo's key: never use it elsewhere")
DEBUG = True
ALLOWED_HOSTS = ["*"]

NODE_ID = os.environ.get("RAFTLOG_NODE_ID", "node1")
NODE_DIR = Path(os.environ.get("RAFTLOG_DATA_DIR", BASE_DIR / "demo-data" / NODE_ID))
NODE_DIR.mkdir(parents=True, exist_ok=True)

RAFTLOG = {"CLUSTER": "demo", "NODE_ID": NODE_ID, "DATA_DIR": NODE_DIR}
if "RAFTLOG_MEMBERS" in os.environ:
    RAFTLOG["MEMBERS"] = dict(member.split("=", 1) for member in os.environ["RAFTLOG_MEMBERS"].split(","))
RAFTLOG |= json.loads(os.environ.get("RAFTLOG_OPTIONS", "{}"))

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "raftlog",
    "demo_site.bank",
]
MIDDLEWARE = [
    "raftlog.middleware.RetryConflicts",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "demo_site.urls"
ASGI_APPLICATION = "demo_site.asgi.application"
WSGI_APPLICATION = "demo_site.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": os.environ.get("RAFTLOG_DATABASE", NODE_DIR / "db.sqlite3"),
        # The raft log is the write-ahead log that survives a power cut; SQLite need not sync at each commit.
        "OPTIONS": {"timeout": 20, "init_command": "PRAGMA synchronous=NORMAL;"},
    },
}

# In-process caches are not replicated (raftlog.W002), and the demo needs none.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}

STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"raftlog": {"handlers": ["console"], "level": "INFO"}},
}
