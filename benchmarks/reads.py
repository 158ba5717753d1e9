"""What reading with a guarantee costs: local, linearizable, and bounded reads, by threads of one application process.

    python -m benchmarks.reads [--seconds S] [--leases] [--json]

Three node processes on this machine; an application process runs beside the leader, then one beside a follower. A read
is one query for one row by its key, inside the block. Figures are reads a second, and the median in milliseconds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_site.settings")

THREADS = (1, 8, 32)
PREPARE = "from demo_site.bank.models import Account; Account.objects.create(name='x', balance=1, paid_in=1)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--leases", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        sys.stdout.write(json.dumps(client(options.seconds)) + "\n")
        sys.stdout.flush()
        os._exit(0)
    found = run(options)
    if options.json:
        print(json.dumps(found))
        return
    for place, kinds in found.items():
        for kind, figures in kinds.items():
            for threads, figure in figures.items():
                print(
                    f"{place:9} {kind:13} {threads:>2} threads  {figure['per_second']:>8.0f}/s  {figure['p50']:.3f} ms"
                )


def run(options):
    from raftlog.testing.processes import ProcessCluster

    with tempfile.TemporaryDirectory(prefix="raftlog-") as folder:
        raftlog_options = {"READ_LEASE": True} if options.leases else {}
        with ProcessCluster(3, Path(folder), options=raftlog_options) as cluster:
            cluster.start()
            leader = cluster.wait_for_leader(30)
            cluster.migrate()
            cluster[leader].manage("shell", "-v", "0", "-c", PREPARE)
            cluster.wait_all_applied(30)
            follower = next(node for node in cluster if node.node_id != leader)
            command = [sys.executable, "-m", "benchmarks.reads", "--client", "--seconds", str(options.seconds)]
            found = {}
            for place, node in (("leader", cluster[leader]), ("follower", follower)):
                found[place] = json.loads(subprocess.check_output(command, env=node.environment))
            return found


def client(seconds):
    import django

    django.setup()
    import raftlog

    kinds = {
        "local": contextlib.nullcontext,
        "linearizable": raftlog.linearizable,
        "max_staleness": lambda: raftlog.max_staleness(5),
    }
    return {kind: {str(n): measure(block, n, seconds) for n in THREADS} for kind, block in kinds.items()}


def measure(block, threads, seconds):
    from django.db import connections

    from demo_site.bank.models import Account

    times: list[float] = []

    def read() -> None:
        own = []
        over_at = time.perf_counter() + seconds
        while (began := time.perf_counter()) < over_at:
            with block():
                Account.objects.get(name="x")
            own.append(time.perf_counter() - began)
        times.extend(own)
        connections.close_all()

    workers = [threading.Thread(target=read) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"per_second": len(times) / seconds, "p50": statistics.median(times) * 1000}


if __name__ == "__main__":
    main()
