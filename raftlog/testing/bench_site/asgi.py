"""Served beside raft by the benchmark's nodes."""

from django.core.asgi import get_asgi_application

application = get_asgi_application()
