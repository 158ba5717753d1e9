"""Settings of a run of Django's own suite."""

from suite_child.environment import RAFTLOG, databases

__all__ = ["RAFTLOG"]

DATABASES = databases("default", "other")
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "suite_child.outcomes.RecordingRunner"
