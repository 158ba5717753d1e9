"""The app of the cache."""

from __future__ import annotations

from django.apps import AppConfig


class CacheConfig(AppConfig):
    name = "raftlog.contrib.cache"
    label = "raftlog_cache"
    verbose_name = "Cache"
    default_auto_field = "django.db.models.BigAutoField"
