"""The benchmark's flags."""

from raftlog.contrib import flags

flags.define("bench_on", default=True, help="read by the benchmark")
flags.define("bench_share", default=False, help="rolled out to some users")
