"""Settings of one node process: it needs none of the suite's apps, since transactions name tables."""

import json
import os

from suite_child.environment import SQLITE_OPTIONS

SECRET_KEY = "unused"
RAFTLOG = json.loads(os.environ["RAFTLOG_OPTIONS"])
DATABASES = {
    "default": {
        "ENGINE": "raftlog.backends.sqlite3",
        "NAME": os.environ["RAFTLOG_DATABASE"],
        "OPTIONS": SQLITE_OPTIONS,
    }
}
INSTALLED_APPS = ["raftlog"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
