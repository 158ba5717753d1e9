"""What several tests of the surface need."""

import pytest


@pytest.fixture
def with_admin(settings, tmp_path):
    """Django's admin installed, and its templates; a node's folder in which nothing is."""
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.admin",
    ]
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
    settings.RAFTLOG = {"DATA_DIR": str(tmp_path)}
