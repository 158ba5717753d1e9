"""The app of gapless numbers."""

from __future__ import annotations

from django.apps import AppConfig


class SequencesConfig(AppConfig):
    name = "raftlog.contrib.sequences"
    label = "raftlog_sequences"
    verbose_name = "Sequences"
    default_auto_field = "django.db.models.BigAutoField"
