"""A node joins a cluster of three that has a million rows and a compacted log, while clients write.

    python -m benchmarks.join [--rows N] [--seconds N] [--json]

Printed: how long it took until the node votes and has applied all that was committed, rows a second, writes a second
before and meanwhile, the most memory of the node that gave the image and of the new one (peak resident set, beside what
the giver had before). The rate limit is the default one.
"""

import argparse
import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path

from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.processes.orm_settings")
SETTINGS = {
    "SEGMENT_BYTES": 1 << 20,
    "COMPACT_LOG_BYTES": 4 << 20,
    "KEEP_LOG_BYTES": 1 << 20,
    "KEEP_LOG_ENTRIES": 1,
}
SHELL = ("shell", "-v", "0", "-c")
FILL = """
from demo_site.bank.models import Account
for first in range(0, {rows}, 2000):
    Account.objects.bulk_create(
        Account(name=f"account {{n:09d}}", balance=n, paid_in=n) for n in range(first, min(first + 2000, {rows}))
    )
"""
WRITE = """
import threading
from demo_site.bank.models import Account
def write(thread):
    number = 0
    while True:
        Account.objects.create(name=f"new {thread} {number}", balance=0, paid_in=0)
        print("wrote", flush=True)
        number += 1
for thread in range(4):
    threading.Thread(target=write, args=[thread]).start()
"""


class Writer:
    """A process that writes with four threads; `count` is how often so far."""

    def __init__(self, node):
        self.count = 0
        self.process = subprocess.Popen(
            [*node.command, *SHELL, WRITE], env=node.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for _ in self.process.stdout:
            self.count += 1

    def rate(self, seconds):
        before, began = self.count, clock.monotonic()
        clock.sleep(seconds)
        return (self.count - before) / (clock.monotonic() - began)

    def stop(self):
        self.process.kill()
        self.process.wait()


def peak_bytes(node):
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError("VmHWM")


def forget_peak(node):
    Path(f"/proc/{node.pid}/clear_refs").write_text("5")


def measure(rows, seconds, folder):
    with ProcessCluster(3, folder, settings_module="tests.processes.orm_settings", options=SETTINGS) as cluster:
        cluster.start()
        cluster.migrate()
        cluster["a"].manage(*SHELL, FILL.format(rows=rows), timeout=1800)
        cluster.wait_all_applied(600)
        leader = cluster.wait_for_leader()
        cluster.wait_for(
            lambda found: all(status and status["first_index"] > 1 for status in found.values()), 60, "compacted logs"
        )
        first_index = cluster[leader].status(10)["first_index"]
        new = cluster.new_node("d")
        new.start()
        cluster.wait_for(lambda found: found["d"] is not None, 60, "d is up")
        writer = Writer(cluster[leader])
        try:
            clock.sleep(3)
            before = writer.rate(seconds)
            forget_peak(cluster[leader])
            giver_before = peak_bytes(cluster[leader])
            count, began = writer.count, clock.monotonic()
            cluster[leader].manage("raft", "add", "d", new.address, timeout=600)
            goal = cluster[leader].status(10)["commit_index"]
            cluster.wait_for(lambda found: found["d"] and found["d"]["last_applied"] >= goal, 600, "d has all of it")
            took = clock.monotonic() - began
            meanwhile = (writer.count - count) / took
            after = writer.rate(seconds)
        finally:
            writer.stop()
        return {
            "rows": rows,
            "log_begins_at": first_index,
            "seconds": round(took, 2),
            "rows_per_second": round(rows / took),
            "writes_per_second": {"before": round(before), "meanwhile": round(meanwhile), "after": round(after)},
            "writes_ratio": round(meanwhile / before, 2),
            "database_bytes": cluster[leader].database.stat().st_size,
            "giver_bytes": {"before": giver_before, "peak": peak_bytes(cluster[leader])},
            "joiner_peak_bytes": peak_bytes(new),
            "image": [line for line in new.log_file.read_text().splitlines() if "image" in line],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10, help="of writing before and after")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.rows, options.seconds, Path(folder))
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
