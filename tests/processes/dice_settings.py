"""The settings of test_orm.py's project, with the app that throws dice."""

from tests.processes.orm_settings import *  # noqa: F403
from tests.processes.orm_settings import INSTALLED_APPS as _INSTALLED_APPS

INSTALLED_APPS = [*_INSTALLED_APPS, "tests.processes.dice"]
