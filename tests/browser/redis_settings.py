"""The demo's settings with a channel layer on a Redis of the test's own."""

import os

from demo_site.settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [("127.0.0.1", int(os.environ.get("RAFTLOG_TEST_REDIS", "6379")))]},
    }
}
