"""For app processes (gunicorn, say) beside `manage.py raft run`: they propose through the host's node."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_site.settings")

application = get_wsgi_application()
