"""The benchmark's app. Its tables are made by `migrate --run-syncdb`."""

import os
from pathlib import Path

from django.apps import AppConfig


class BenchConfig(AppConfig):
    name = "raftlog.testing.bench_site"
    label = "bench"

    def ready(self) -> None:
        if path := os.environ.get("RAFTLOG_BENCH_TRACE"):
            from raftlog.testing.bench.stages import trace_apply

            trace_apply(Path(path).with_suffix(f".{os.environ['RAFTLOG_NODE_ID']}"))
        if path := os.environ.get("RAFTLOG_BENCH_PUTS"):
            from raftlog.testing.bench.put_trace import trace_puts

            trace_puts(Path(path).with_suffix(f".{os.environ['RAFTLOG_NODE_ID']}"))
