"""As orm_settings, each node with a PostgreSQL database of its own."""

import json
import os

from tests.processes.orm_settings import *  # noqa: F403

DATABASES = {
    "default": {
        **json.loads(os.environ["TEST_POSTGRESQL"]),
        "ENGINE": "raftlog.backends.postgresql",
        "NAME": f"{os.environ['TEST_POSTGRESQL_PREFIX']}_{json.loads(os.environ['RAFTLOG_OPTIONS'])['NODE_ID']}",
        "OPTIONS": {},
    }
}
