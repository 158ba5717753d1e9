"""`path("raft/", include("raftlog.urls"))`: /raft/healthz and /raft/readyz for probes, /raft/metrics for Prometheus."""

from __future__ import annotations

from django.urls import path

from raftlog import views

app_name = "raftlog"

urlpatterns = [
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("metrics", views.metrics, name="metrics"),
]
