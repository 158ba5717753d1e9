"""The app of rate limits."""

from __future__ import annotations

from django.apps import AppConfig


class RateLimitConfig(AppConfig):
    name = "raftlog.contrib.ratelimit"
    label = "raftlog_ratelimit"
    verbose_name = "Rate limits"
    default_auto_field = "django.db.models.BigAutoField"
