"""Settings of a run of django-reversion's tests: its own, with our databases under its three aliases."""

from test_project.settings import *  # noqa: F403

from suite_child.environment import RAFTLOG, databases

__all__ = ["RAFTLOG"]

DATABASES = databases("default", "postgres", "mysql")
