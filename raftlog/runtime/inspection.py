"""What an operator asks a node about itself: its log, and its threads. Requests of clients, by name.

Any thread; entries come from memory or from disk, whichever holds them.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from raftlog.consensus.entries import EntryBatch
from raftlog.exceptions import LogCompacted, LogTruncated
from raftlog.runtime.server import RaftServer

MAX_READ_BYTES: Final = 4 << 20  # payload bytes of one answer, but for one entry that is larger
MAX_FRAMES: Final = 60  # of a stack

Request = Callable[[dict[str, Any]], Any]


def inspection_requests(server: RaftServer) -> dict[str, Request]:
    return {"log_read": partial(_log_read, server), "threads": partial(_threads, server)}


def _log_read(server: RaftServer, arguments: dict[str, Any]) -> dict[str, Any]:
    """{"first": index, "last": index} -> the log's bounds, and "batch": some of them (None: there is none)."""
    state = server.state
    with state.monitor:
        log = state.raft.log
        answer = {
            "first_index": log.first_index,
            "last_index": log.stable_index,
            "commit_index": state.raft.commit_index,
            "last_applied": state.raft.last_applied,
        }
    first = max(int(arguments["first"]), int(answer["first_index"]))
    last = min(int(arguments["last"]), int(answer["last_index"]))
    return answer | {"batch": _read(server, first, last) if first <= last else None}


def _read(server: RaftServer, first: int, last: int) -> EntryBatch | None:
    state = server.state
    with state.monitor:
        if not state.raft.log.first_index <= first <= state.raft.log.last_index:
            return None
        batch = state.raft.log.slice(first, last, MAX_READ_BYTES)
    try:
        return batch or state.log_store.read(first, last, MAX_READ_BYTES)
    except (LogCompacted, LogTruncated):
        return None


def _threads(server: RaftServer, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """{"stacks": bool} -> each thread of the process, those of the node first."""
    monotonic = server.state.monitor.monotonic()
    known = {thread.name: thread for thread in list(server.threads)}
    frames = sys._current_frames() if arguments.get("stacks") else {}
    found = []
    for thread in threading.enumerate():
        ours = known.get(thread.name)
        frame = frames.get(thread.ident or 0)
        found.append(
            {
                "name": thread.name,
                "doing": ours.doing if ours else "",
                "seconds": round(max(0.0, monotonic - ours.since), 3) if ours else None,
                "native_id": thread.native_id,
                "stack": _stack(frame) if frame is not None else [],
            }
        )
    running = {thread["name"] for thread in found}
    gone: list[dict[str, Any]] = [
        {"name": name, "doing": thread.doing, "seconds": None, "native_id": None, "stack": []}
        for name, thread in known.items()
        if name not in running
    ]
    return sorted(found + gone, key=lambda thread: (not thread["doing"], thread["name"]))


def _stack(frame: Any) -> list[str]:
    """Innermost last, as a traceback has it."""
    summary = traceback.extract_stack(frame)[-MAX_FRAMES:]
    return [f"{each.filename}:{each.lineno} {each.name}: {each.line or ''}".rstrip(": ") for each in summary]
