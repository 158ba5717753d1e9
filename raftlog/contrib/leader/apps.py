"""The Django app of elections. It has no tables of its own: an election is a lock."""

from __future__ import annotations

from django.apps import AppConfig


class LeaderConfig(AppConfig):
    name = "raftlog.contrib.leader"
    label = "raftlog_leader"
    verbose_name = "Raft: leader"
    default_auto_field = "django.db.models.BigAutoField"
