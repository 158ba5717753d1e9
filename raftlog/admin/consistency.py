"""The page "Consistency": what the running hashes of the nodes say, and a comparison of all rows on demand."""

from __future__ import annotations

import threading
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from raftlog.admin.pages import Page, may, refuse_unless, render
from raftlog.asking import fetch_status
from raftlog.conf import load_settings
from raftlog.exceptions import RaftlogError
from raftlog.management import digest_report
from raftlog.management.digests import ClusterDigest, MemberDigest, find_members
from raftlog.management.raft.digest import difference_lines, sentence
from raftlog.runtime import clock

TIMEOUT: Final = 60.0  # seconds for a node to reach the entry


class Comparison:
    """The newest comparison that this process has begun: at most one at a time. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.began_at = 0.0
        self.rows: dict[str, str] = {}
        self.found: dict[str, Any] | None = None
        self.error = ""

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> bool:
        """False: one is under way."""
        with self._lock:
            if self.is_running:
                return False
            self.rows, self.found, self.error = {}, None, ""
            self.began_at = clock.wall_microseconds() / 1_000_000
            self._thread = threading.Thread(target=self._main, name="raftlog-admin-digest", daemon=True)
            self._thread.start()
            return True

    def _main(self) -> None:
        try:
            settings = load_settings()
            with ClusterDigest(settings, find_members(settings), [], TIMEOUT) as digest:
                digest.begin()
                digest.follow(self._note, TIMEOUT)
                self.found = digest_report.report(digest)
        except Exception as error:  # noqa: BLE001  (whatever it is: the page shows it)
            self.error = f"{type(error).__name__}: {error}"

    def _note(self, members: list[MemberDigest]) -> None:
        self.rows = {m.node_id: m.error or f"{m.status.get('rows', 0):,} rows" for m in members}


_comparison = Comparison()


def view(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    if request.method == "POST":
        refuse_unless(request, "run_digest")
        if not _comparison.begin():
            messages.warning(request, "A comparison is under way already.")
        return HttpResponseRedirect(request.path)
    context |= {"may_run": may(request, "run_digest"), "hashes": hashes(), "comparison": _comparison}
    if (found := _comparison.found) is not None:
        differences = found["differences"] if context["may_run"] else []  # they show rows
        lines = [line for each in differences for line in difference_lines(each, found["reference"])]
        context |= {"found": found, "sentence": sentence(found), "lines": lines}
    response = render(request, "consistency", context)
    if _comparison.is_running:
        response["Refresh"] = "1"
    return response


def hashes() -> dict[str, Any]:
    """What this host's node knows: up to which entry each peer's running hash is that of this node."""
    try:
        status = fetch_status(load_settings())
    except (RaftlogError, OSError) as error:
        return {"problem": f"This host's node does not answer: {error}"}
    fingerprint = status.get("fingerprint")
    if not fingerprint:
        return {"problem": "This node keeps no running hash: its ENGINE is none of raftlog's."}
    return {
        "node_id": status["node_id"],
        "applied": status["last_applied"],
        "divergence": status.get("divergence"),
        "alike": sorted(fingerprint["alike"].items()),
    }


PAGE = Page("consistency", "Consistency", view)
