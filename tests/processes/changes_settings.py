"""orm_settings, and browsers that are told of changes (changes_asgi.py)."""

from tests.processes.orm_settings import *  # noqa: F403

ASGI_APPLICATION = "tests.processes.changes_asgi.application"
