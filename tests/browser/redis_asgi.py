"""What an app process beside the node serves: the site, and the socket that its pages follow the cluster by."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.browser.redis_settings")
site = ASGIStaticFilesHandler(get_asgi_application())

from raftlog.admin.live import with_live  # noqa: E402  (apps are ready from here on)

application = with_live(site)
