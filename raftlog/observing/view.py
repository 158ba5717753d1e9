"""The cluster as a whole: every member asked, and what their answers add up to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from raftlog.conf import Settings
from raftlog.exceptions import RaftlogError

HAS_LEADER, NO_LEADER, UNREACHABLE = 0, 1, 2
UNKNOWN: Final = "unknown"
SILENT: Final = 2.0  # seconds after which a member that the leader does not hear from is not up, though it answers us

_SHOWN = (
    *("role", "current_term", "leader_id", "commit_index", "last_applied", "last_index", "first_index", "healthy"),
    *("problems", "warnings", "divergence", "disk", "snapshots", "waiting_proposals", "uptime", "version"),
)

# (address of a member or None for the local node) -> its status. Raises RaftlogError, OSError.
Ask = Callable[[str | None], dict[str, Any]]


def collect(settings: Settings, ask: Ask) -> dict[str, Any]:
    """Ask everyone and say what it adds up to, as plain data."""
    local, _ = _ask(ask, None)
    members = dict(settings.members)
    if local is not None and local.get("members"):
        members = {node_id: member["address"] for node_id, member in local["members"].items()}
    answers: dict[str, tuple[dict[str, Any] | None, str]] = {}
    if local is not None:
        answers[local.get("node_id", settings.node_id)] = (local, "")
    others = [node_id for node_id in members if node_id not in answers]
    if others:
        with ThreadPoolExecutor(max_workers=min(16, len(others))) as pool:
            asked = pool.map(lambda node_id: _ask(ask, members[node_id]), others)
            answers |= dict(zip(others, asked, strict=True))
    return summarize(members, answers)


def _ask(ask: Ask, target: str | None) -> tuple[dict[str, Any] | None, str]:
    try:
        return ask(target), ""
    except (RaftlogError, OSError) as error:
        return None, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def summarize(members: dict[str, str], answers: dict[str, tuple[dict[str, Any] | None, str]]) -> dict[str, Any]:
    """The report: the leader of the newest term, the voters that answer, and a row for each member.

    A node of another version may leave out any key of its status: what follows from it is None then, or UNKNOWN where
    it is a word that people read.
    """
    statuses = {
        node_id: {"node_id": node_id, "role": UNKNOWN} | status
        for node_id, (status, _) in answers.items()
        if status is not None
    }
    leader = max((status for status in statuses.values() if status["role"] == "leader"), key=_term, default=None)
    newest = leader or max(statuses.values(), key=_term, default=None) or {}
    known = newest.get("members") or {}
    voters = [node_id for node_id in members if not known or known.get(node_id, {}).get("voter", False)]
    answering = [node_id for node_id in voters if node_id in statuses]
    rows = [
        _row(node_id, address, statuses.get(node_id), answers.get(node_id, (None, "was not asked"))[1], leader)
        for node_id, address in members.items()
    ]
    majority = len(answering) > len(voters) // 2
    exit_code = UNREACHABLE if not statuses else HAS_LEADER if leader and majority else NO_LEADER
    return {
        "leader_id": leader["node_id"] if leader else None,
        "term": newest.get("current_term"),
        "cluster_id": newest.get("cluster_id"),
        "voters": len(voters),
        "voters_answering": len(answering),
        "voters_up": sum(row["reachable"] and not row["silent"] for row in rows if row["node_id"] in voters),
        "majority": majority,
        "exit_code": exit_code,
        "commit_index": leader.get("commit_index") if leader else None,
        "write_turn": leader.get("write_turn") if leader else None,
        "configuration": newest.get("configuration"),
        "members": rows,
    }


def _term(status: dict[str, Any]) -> int:
    return int(status.get("current_term", 0))


def _row(
    node_id: str, address: str, status: dict[str, Any] | None, error: str, leader: dict[str, Any] | None
) -> dict[str, Any]:
    seen_by_leader = (leader.get("members") or {}).get(node_id, {}) if leader else {}
    knows = leader or status or {}
    row: dict[str, Any] = {
        "node_id": node_id,
        "address": address,
        "reachable": status is not None,
        "error": error,
        "last_contact": seen_by_leader.get("last_contact"),
        "silent": status is not None and (seen_by_leader.get("last_contact") or 0) > SILENT,
        "round_trip": seen_by_leader.get("round_trip"),
        "lag": seen_by_leader.get("lag"),
        "kind": kind_of(node_id, knows.get("configuration")),
        "priority": ((knows.get("members") or {}).get(node_id) or {}).get("priority"),
        # The peers that this node has a connection to, and those that it has not.
        "links": {
            peer: each.get("connected", False)
            for peer, each in ((status or {}).get("members") or {}).items()
            if peer != node_id
        },
    }
    row |= {name: status.get(name) if status else None for name in _SHOWN}
    row["behind"] = _less(leader.get("commit_index"), row["last_applied"]) if leader else None
    # Of its own committed entries; `behind` counts from what the leader has committed.
    row["backlog"] = _less(row["commit_index"], row["last_applied"])
    row["log_bytes"] = ((row["snapshots"] or {}).get("compaction") or {}).get("log_bytes")
    return row


def milliseconds(seconds: float | None) -> str | None:
    """A time for people."""
    return None if seconds is None else f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


def _less(index: int | None, other: int | None) -> int | None:
    return None if index is None or other is None else max(0, index - other)


def kind_of(node_id: str, configuration: dict[str, Any] | None) -> str:
    """What a member is: "voter", "learner", "joining" (to become a voter), "leaving", or "" where nobody knows."""
    if configuration is None:
        return ""
    goal, voters = configuration.get("goal_voters", ()), configuration.get("voters", ())
    if goal and node_id in goal and node_id not in voters:
        return "joining"
    if node_id in voters or node_id in configuration.get("outgoing", ()):
        return "leaving" if goal and node_id not in goal else "voter"
    return "learner"


def health(report: dict[str, Any]) -> str:
    """Whether the cluster can write, and how much more it can lose, in one sentence."""
    voters, up = report["voters"], report["voters_up"]
    spare = up - (voters // 2 + 1)
    if not up:
        return "No voter can be reached."
    if spare < 0:
        more = "one more" if spare == -1 else f"{-spare} more"
        return f"{up} of {voters} up: no majority, nothing can be written; bring {more} back."
    if report["leader_id"] is None:
        return f"{up} of {voters} up, and an election is going on."
    loss = "none may fail" if spare == 0 else "one more may fail" if spare == 1 else f"{spare} more may fail"
    if voters == 1:
        loss = "it is the only one: nothing is replicated"
    return f"{up} of {voters} up; {loss}."


def sentence(report: dict[str, Any]) -> str:
    votes = f"{report['voters_answering']} of {report['voters']} voters answer"
    if report["exit_code"] == UNREACHABLE:
        return "No member answers: is `manage.py raft run` running anywhere?"
    if report["leader_id"] is None:
        why = "an election is going on" if report["majority"] else "no majority, so nothing can be written"
        return f"No leader ({votes}: {why})."
    warning = "" if report["majority"] else ": no majority, so nothing can be written"
    return f"{report['leader_id']} leads in term {report['term']} ({votes}{warning})."


def role_word(role: Any) -> str:
    """A role as people write it."""
    return str(role).replace("_", "-")


def turn_sentence(report: dict[str, Any]) -> str:
    """Who has the cluster's write turn; "": nobody, or it is not known."""
    turn = report["write_turn"] or {}
    if not turn.get("holder"):
        return ""
    return f"{turn['holder']} has the write turn{' for a schema change' if turn.get('fence') else ''}."


def image_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """{"words", "percent" or None} of the image of the database that a member pulls or makes now; None: none."""
    snapshots = row["snapshots"] or {}
    if pulling := snapshots.get("pulling"):
        words = f"{pulling.get('step', 'pulling an image')} {pulling.get('from', '')}".strip()
        return {"words": words, "percent": pulling.get("percent")}
    if making := (snapshots.get("serving") or {}).get("making"):
        done, total = making.get("bytes", 0), making.get("total", 0)
        return {"words": "making an image", "percent": round(100 * done / total, 1) if total else None}
    return None
