"""The app of `raft bench --batteries`."""

from django.apps import AppConfig


class BatteriesConfig(AppConfig):
    name = "raftlog.testing.bench_site.batteries"
    label = "bench_batteries"
