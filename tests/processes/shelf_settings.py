"""A project on the replicated backend: ATOMIC_REQUESTS, the retrying middleware, and the shelf."""

from tests.processes.orm_settings import *  # noqa: F403
from tests.processes.orm_settings import DATABASES, INSTALLED_APPS

DATABASES["default"]["ATOMIC_REQUESTS"] = True
INSTALLED_APPS = [*INSTALLED_APPS, "tests.processes.shelf"]
ROOT_URLCONF = "tests.processes.shelf.views"
ADMIN = False
