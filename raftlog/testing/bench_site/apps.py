"""The benchmark's app. Its one table is made by `migrate --run-syncdb`."""

from django.apps import AppConfig


class BenchConfig(AppConfig):
    name = "raftlog.testing.bench_site"
    label = "bench"
