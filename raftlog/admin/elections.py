"""The page "Elections": who led in which term, for how long, and why it changed, as the nodes remember."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from django.http import HttpRequest, HttpResponseBase

from raftlog.admin.pages import TIMEOUT, Page, render, report_of_cluster
from raftlog.asking import ask
from raftlog.conf import load_settings
from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock

SHOWN_EVENTS: Final = 200
SHOWN_TERMS: Final = 50
BAR: Final = 600  # width of the timeline
SHARED: Final = 1.0  # seconds for which everybody who looks gets the same answer of the nodes
REASONS: Final = ("pre-candidate", "stepped-down", "transfer", "transfer-abandoned")


def view(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    return render(request, "elections", context | fragment_context())


def fragment_context(report: dict[str, Any] | None = None) -> dict[str, Any]:
    events = events_of_all(report or report_of_cluster())
    terms = terms_of(events)
    return {
        "events": [shown(event) for event in without_repeats(events)[:SHOWN_EVENTS]],
        "terms": terms,
        "bar": bar_of(terms),
        "bar_width": BAR,
    }


class SharedAnswer:
    """What several viewers ask for at about the same time is asked once. Thread-safe: the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._question: Any = None
        self._answer: list[dict[str, Any]] = []
        self._until = float("-inf")

    def get(self, question: Any, ask_for_it: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The answer to an equal `question`, where it is younger than SHARED; else a new one. Raises what that does."""
        with self._lock:
            if question != self._question or clock.monotonic() >= self._until:
                self._answer = ask_for_it()
                self._question, self._until = question, clock.monotonic() + SHARED
            return list(self._answer)


_shared = SharedAnswer()


def events_of_all(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What every node that answers remembers, the newest first.

    Shared for a moment, but not over a change of who leads or who answers: that is what people want to see at once.
    """
    there = tuple(row["node_id"] for row in report["members"] if row["reachable"])
    question = (load_settings().data_dir, report["term"], report["leader_id"], there)
    return _shared.get(question, partial(_ask_all, report))


def _ask_all(report: dict[str, Any]) -> list[dict[str, Any]]:
    settings = load_settings()

    def asked(row: dict[str, Any]) -> list[dict[str, Any]]:
        target = None if row["node_id"] == report["here"] else row["address"]
        try:
            events = ask(settings, "elections", {"count": SHOWN_EVENTS}, target=target, timeout=TIMEOUT)
        except (RaftlogError, OSError):
            return []  # it went down just now, or runs an older version: the others remember too
        return [{**event, "node_id": row["node_id"]} for event in events]

    rows = [row for row in report["members"] if row["reachable"]]
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(rows)))) as pool:
        found = [event for events in pool.map(asked, rows) for event in events]
    return sorted(found, key=lambda event: event["at"], reverse=True)


def terms_of(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The terms that had a leader, the newest first: since when it led, for how long, and why it came."""
    first: dict[int, dict[str, Any]] = {}
    for event in sorted(events, key=lambda event: event["at"]):
        if event["leader_id"] and event["term"] not in first:
            first[event["term"]] = event
    causes = [event for event in events if event["kind"] in REASONS]
    terms: list[dict[str, Any]] = []
    until = clock.wall_microseconds() / 1_000_000
    for term in sorted(first, reverse=True)[:SHOWN_TERMS]:
        event = first[term]
        before = [cause for cause in causes if cause["at"] <= event["at"] and cause["term"] in (term - 1, term)]
        newest = max(before, key=lambda cause: float(cause["at"]), default=None)
        terms.append(
            {
                "term": term,
                "leader_id": event["leader_id"],
                "since": moment(event["at"]),
                "at": event["at"],
                "seconds": max(until - event["at"], 0.0),
                "reason": f"{newest['node_id']}: {newest['text']}" if newest else "",
            }
        )
        until = event["at"]
    return terms


def bar_of(terms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The terms as parts of a bar, the oldest first; none so short that it cannot be seen."""
    total = sum(term["seconds"] for term in terms) or 1.0
    leaders = sorted({term["leader_id"] for term in terms})
    widths = [max(BAR * term["seconds"] / total, 4.0) for term in reversed(terms)]
    scale, x, parts = BAR / sum(widths or [1.0]), 0.0, []
    for term, width in zip(reversed(terms), widths, strict=True):
        parts.append(
            {
                "x": round(x, 1),
                "width": round(width * scale, 1),
                "middle": round(x + width * scale / 2, 1),
                "color": leaders.index(term["leader_id"]) % 7,
                "term": term,
                "has_label": width * scale > 40,
            }
        )
        x += width * scale
    return parts


def without_repeats(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a node says again and again, and nothing else in between, once: the newest, with `times` and `since`."""
    kept: list[dict[str, Any]] = []
    last_of: dict[str, dict[str, Any]] = {}  # node -> its row that was kept last
    for event in events:
        last = last_of.get(event["node_id"])
        if last is not None and last["text"] == event["text"]:
            last |= {"times": last["times"] + 1, "since": moment(event["at"])}
        else:
            last_of[event["node_id"]] = {**event, "times": 1, "since": None}
            kept.append(last_of[event["node_id"]])
    return kept


def shown(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"moment": moment(event["at"])}


def moment(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


PAGE = Page("elections", "Elections", view, live=True)
