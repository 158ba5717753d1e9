"""The page "Log": entries, decoded, the newest first; who proposed them, when they were applied, and how they ended."""

from __future__ import annotations

import bisect
import contextlib
import datetime
from collections.abc import Callable
from typing import Any, Final

import msgspec
from django import forms
from django.http import HttpRequest, HttpResponseBase

from raftlog.admin.pages import TIMEOUT, Page, render
from raftlog.asking import ask
from raftlog.conf import Settings, load_settings
from raftlog.exceptions import RaftlogError
from raftlog.management.log_sources import NodeSource
from raftlog.management.raft.log import WINDOW, Reader, columns_of
from raftlog.replication import codec
from raftlog.replication.certify import decode_verdict
from raftlog.replication.describe import KIND_NAMES, line_of, plain, shorten
from raftlog.replication.failures import decode_failure, refusal_of
from raftlog.runtime.ports import APPLIED, FAILED, Outcome

PAGE_ENTRIES: Final = 50
LOOKED_THROUGH: Final = 5_000  # entries for one page, where it is filtered
LOOKED_BYTES: Final = 8 << 20  # of entries for one page; the newest of them is shown however large it is
DETAILS: Final = 20_000  # characters of one entry's details
STATUS: Final = {APPLIED: "applied", FAILED: "failed"}


class FilterForm(forms.Form):
    before = forms.IntegerField(required=False, min_value=1, label="Up to index")
    term = forms.IntegerField(required=False, min_value=1, label="Term")
    kind = forms.ChoiceField(
        required=False, choices=[("", "any"), *((name, name) for name in sorted(KIND_NAMES.values()))], label="Kind"
    )
    command = forms.CharField(required=False, max_length=200, label="Command")
    # No regular expression: one can run for years, and while it does, no thread of the node runs.
    text = forms.CharField(required=False, max_length=200, label="Text", help_text="what its line holds, in any case")

    def matcher(self) -> Callable[[dict[str, Any]], bool]:
        term, kind, command = (self.cleaned_data[name] for name in ("term", "kind", "command"))
        text = self.cleaned_data["text"].casefold()

        def matches(entry: dict[str, Any]) -> bool:
            return (
                (term is None or entry["term"] == term)
                and (not kind or entry["kind"] == kind)
                and (not command or entry.get("command") == command)
                and (not text or text in line_of(entry).casefold())
            )

        return matches

    @property
    def is_filtered(self) -> bool:
        return any(self.cleaned_data[name] for name in ("term", "kind", "command", "text"))


def view(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    form = FilterForm(request.GET or {})
    context |= {"form": form, "entries": [], "problem": ""}
    if form.is_valid():
        try:
            context |= found(load_settings(), form)
        except (RaftlogError, OSError) as error:
            context["problem"] = f"This host's node does not answer: {error}"
    return render(request, "log", context, status=200 if form.is_valid() else 400)


def found(settings: Settings, form: FilterForm) -> dict[str, Any]:
    """Entries for one page, and where the next older ones begin. Raises RaftlogError, OSError."""
    with contextlib.closing(NodeSource(settings)) as source, columns_of(settings.database) as columns:
        reader = Reader(source, columns, arguments=True)
        last = min(form.cleaned_data["before"] or source.last_index, source.last_index)
        window = LOOKED_THROUGH if form.is_filtered else PAGE_ENTRIES
        first = max(source.first_index, last - window + 1)
        entries, looked_to = newest_within(reader, form.matcher(), first, last, LOOKED_BYTES)
        older = (entries[-1]["index"] if len(entries) == PAGE_ENTRIES else looked_to) - 1
        bounds = {
            "first_index": source.first_index,
            "last_index": source.last_index,
            "commit_index": source.commit_index,
            "looked_at": (older + 1, last),
            "stopped_by_size": len(entries) < PAGE_ENTRIES and looked_to > first,
            "looked_bytes": LOOKED_BYTES,
            "older": older if older >= source.first_index else None,
            "newest": last == source.last_index,
        }
    if entries:
        tell_ends(settings, entries)
    return bounds | {"entries": [shown(entry) for entry in entries]}


def newest_within(
    reader: Reader, matches: Callable[[dict[str, Any]], bool], first: int, last: int, max_bytes: int
) -> tuple[list[dict[str, Any]], int]:
    """Up to PAGE_ENTRIES that match, the newest first, and the lowest index that was looked at.

    A window is read from its old end on, so it begins small and grows as sizes allow; one that turns out too large is
    read again in smaller parts. At least the newest entry is looked at, so that going on from the end goes on.
    """
    found: list[dict[str, Any]] = []
    window, left = 1, max_bytes
    while last >= first and left > 0:
        begin = max(first, last - window + 1)
        entries, size = [], 0
        for entry in reader.entries(begin, last):
            entries.append(entry)
            size += entry["bytes"]
            if size > left and window > 1:
                break
        if size > left and window > 1:
            window = max(window // 8, 1)
            continue
        for entry in filter(matches, reversed(entries)):
            found.append(entry)
            if len(found) == PAGE_ENTRIES:
                return found, entry["index"]
        left -= size
        last = begin - 1
        window = min(WINDOW, window * 4, max(1, left * len(entries) // max(size, 1)))
    return found, last + 1


def tell_ends(settings: Settings, entries: list[dict[str, Any]]) -> None:
    """Add to each entry when it was applied on this node, and how it ended, as far as the node remembers."""
    indices = {"first": entries[-1]["index"], "last": entries[0]["index"]}
    answer = ask(settings, "applied", indices, timeout=TIMEOUT)
    ends = [last for last, _ in answer["moments"]]
    outcomes = {index: (status, result) for index, status, result in answer["outcomes"]}
    for entry in entries:
        position = bisect.bisect_left(ends, entry["index"])
        # The oldest batch that is remembered may begin later than this entry.
        if position < len(ends) and (position or entry["index"] == ends[0]):
            at = answer["moments"][position][1]
            entry["applied_at"] = datetime.datetime.fromtimestamp(at, datetime.UTC)
        if entry["index"] in outcomes:
            entry["end"] = end_of(entry, *outcomes[entry["index"]])


def end_of(entry: dict[str, Any], status: int, result: bytes) -> dict[str, str]:
    """{"status", "text"}: the result of a command, the reason of a failure or conflict."""
    said = STATUS.get(status, "refused")
    try:
        if status not in STATUS:
            return {"status": said, "text": refusal_of(Outcome(b"", status, 0, result))[1]}
        if "changes" in entry:
            verdict = decode_verdict(result)
            return {"status": verdict.kind.name.lower().replace("_", " "), "text": verdict.reason}
        if status == FAILED:
            failure = decode_failure(result)
            return {"status": said, "text": f"{type(failure).__name__}: {failure}"}
        value = codec.decode(result) if "command" in entry else None
        return {"status": said, "text": "" if value is None else shorten(value)}
    except msgspec.MsgspecError as error:
        return {"status": said, "text": f"cannot be decoded: {error}"}


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    made = datetime.datetime.fromisoformat(entry["time"])
    return {**entry, "line": line_of(entry), "made_at": made, "details": details_of(entry)}


def details_of(entry: dict[str, Any]) -> str:
    hidden = ("index", "term", "time", "kind", "committed", "applied_at", "end")
    kept = {name: value for name, value in entry.items() if name not in hidden}
    text = msgspec.json.format(msgspec.json.encode(plain(kept)), indent=2).decode()
    if len(text) <= DETAILS:
        return text
    whole = f"manage.py raft log --from {entry['index']} --limit 1 --json"
    return f"{text[:DETAILS]}…\n({len(text):,} characters; all of them: {whole})"


PAGE = Page("log", "Log", view, permission="view_log")
