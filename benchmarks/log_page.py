"""How long the admin's log page takes with many entries: python -m benchmarks.log_page [--entries N] [--json].

One node process, whose log is filled with commands and transactions; then the page is fetched as a browser would, the
newest entries, some from the middle, and filtered so that nothing matches (5,000 entries are looked through).
"""

from __future__ import annotations

import argparse
import http.cookiejar
import json
import os
import re
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from raftlog.testing.processes import ProcessCluster

FILL = """
from django.contrib.auth.models import User
from demo_site.bank.commands import open_account, transfer
from raftlog.replication.propose import propose_many
User.objects.create_superuser("admin", "admin@example.com", "admin")
for name in ("x", "y"):
    open_account.propose(name=name, balance=10**9)
left = {entries}
while left:
    count = min(left, 2_000)
    calls = [(transfer, {{"source": "x", "target": "y", "amount": 1, "reference": str(n)}}) for n in range(count)]
    propose_many(calls, timeout=300)
    left -= count
"""
ROUNDS = 15


class Browser:
    def __init__(self, address: str) -> None:
        self.address = address
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))

    def log_in(self) -> None:
        page = self.get("/admin/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        fields = {"username": "admin", "password": "admin", "csrfmiddlewaretoken": token[1] if token else ""}
        request = urllib.request.Request(
            f"{self.address}/admin/login/?next=/admin/",
            urllib.parse.urlencode(fields).encode(),
            {"Referer": self.address},
        )
        self._opener.open(request, timeout=30).close()

    def get(self, path: str) -> str:
        with self._opener.open(f"{self.address}{path}", timeout=60) as answer:
            return answer.read().decode()


def measure(entries: int) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory(prefix="raftlog-") as folder,
        ProcessCluster(1, Path(folder), settings_module="demo_site.settings") as cluster,
    ):
        cluster.start()
        cluster.wait_for_leader(30)
        cluster.migrate()
        node = next(iter(cluster))
        node.manage("shell", "-v", "0", "-c", FILL.format(entries=entries), timeout=1200)
        index = cluster.wait_all_applied(600)
        browser = Browser(node.http_address)
        browser.log_in()
        log = "/admin/raftlog/cluster/log/"
        pages = {"newest": log, "middle": f"{log}?before={entries // 2}", "no match": f"{log}?text=nowhere"}
        found: dict[str, object] = {"entries": index}
        for name, path in pages.items():
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                browser.get(path)
                times.append((time.perf_counter() - began) * 1000)
            found[name] = {"median_ms": round(statistics.median(times), 1), "longest_ms": round(max(times), 1)}
        return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log_page", description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")  # of this process; the node has the demo's
    found = measure(options.entries)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found.pop('entries'):,} entries in the log")
    for name, times in found.items():
        print(f"{name:10} median {times['median_ms']:7.1f} ms, longest {times['longest_ms']:7.1f} ms")


if __name__ == "__main__":
    main()
