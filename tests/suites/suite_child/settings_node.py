"""Settings of one node process: it needs none of the suite's apps, since transactions name tables."""

import json
import os

from suite_child.environment import database, engine, node_database

SECRET_KEY = "unused"
RAFTLOG = json.loads(os.environ["RAFTLOG_OPTIONS"])
DATABASES = {"default": {**database(engine(), "default"), "NAME": node_database(RAFTLOG["NODE_ID"])}}
INSTALLED_APPS = ["raftlog"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
