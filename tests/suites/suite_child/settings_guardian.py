"""Settings of a run of django-guardian's tests: its own, with our databases."""

from guardian.testapp.testsettings import *  # noqa: F403

from suite_child.environment import RAFTLOG, databases

__all__ = ["RAFTLOG"]

SECRET_KEY = "not drawn by lot"
DATABASES = databases("default")
