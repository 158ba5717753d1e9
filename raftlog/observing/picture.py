"""A report on the cluster as a picture (numbers for an SVG), and what in it needs attention."""

from __future__ import annotations

import math
from typing import Any, Final

from raftlog.observing.view import role_word

WIDTH, HEIGHT, RADIUS = 640, 340, 34  # of the picture and of a node in it
HEIGHT_OF_MANY: Final = 480  # of the picture, where five nodes or more are in it
FAR_BEHIND: Final = 1_000  # entries

# What a problem begins with -> what to do about it.
ADVICE: Final = (
    ("the disk is full", "Make room on that host; the node comes back by itself."),
    ("the disk does not answer", "Look at that host's disk; leadership goes elsewhere meanwhile."),
    ("repairing", "Nothing to do: it votes again once it has what its disk had lost."),
    ("its log is damaged", "Stop the node and run `manage.py raft repair` on its host."),
)


def picture(report: dict[str, Any]) -> dict[str, Any]:
    """Nodes on an ellipse, links between them: numbers for an SVG."""
    rows = report["members"]
    nodes, places = [], {}
    height = HEIGHT if len(rows) < 5 else HEIGHT_OF_MANY
    for number, row in enumerate(rows):
        angle = 2 * math.pi * number / max(len(rows), 1) - math.pi / 2
        x = WIDTH / 2 + math.cos(angle) * (WIDTH / 2 - 110) * (len(rows) > 1)
        y = height / 2 + math.sin(angle) * (height / 2 - 80) * (len(rows) > 1)
        places[row["node_id"]] = (round(x, 1), round(y, 1))
        # Away from the middle, where links would cross it: two lines of text, above or below.
        lines = (-RADIUS - 26, -RADIUS - 10) if y < height / 2 - 1 else (RADIUS + 18, RADIUS + 34)
        nodes.append(
            {"x": round(x, 1), "y": round(y, 1), "state": state_of(row), "row": row}
            | {"label": label_of(row), "label_y": lines[0], "more_y": lines[1]}
        )
    links = []
    for number, row in enumerate(rows):
        for other in rows[number + 1 :]:
            ends = (row["links"].get(other["node_id"]), other["links"].get(row["node_id"]))
            if not row["reachable"] and not other["reachable"]:
                continue
            is_up = all(end for end in ends if end is not None) and row["reachable"] and other["reachable"]
            leads = report["leader_id"] in (row["node_id"], other["node_id"])
            if leads and (row["silent"] or other["silent"]):
                is_up = False
            (x1, y1), (x2, y2) = places[row["node_id"]], places[other["node_id"]]
            kind = ("leads" if leads else "peers") if is_up else "down"
            links.append({"x1": x1, "y1": y1, "x2": x2, "y2": y2, "kind": kind})
    return {"width": WIDTH, "height": height, "radius": RADIUS, "nodes": nodes, "links": links}


def state_of(row: dict[str, Any]) -> str:
    if not row["reachable"]:
        return "down"
    if row["healthy"] is False:
        return "ill"
    return str(row["role"])


def label_of(row: dict[str, Any]) -> str:
    """Under the node's name."""
    if not row["reachable"]:
        return "cannot be reached"
    if row["kind"] in ("learner", "joining", "leaving"):
        return str(row["kind"])
    return role_word(row["role"])


def warnings(report: dict[str, Any]) -> list[dict[str, str]]:
    """Each with the node that it is about, what is the case, and what to do."""
    found = []
    for row in report["members"]:
        if not row["reachable"]:
            found.append(unreachable(row))
            continue
        if row["silent"]:
            text = f"{report['leader_id']}, which leads, has not heard from it for {row['last_contact']:.0f} s"
            found.append(warning(row, text, "See the network between the two, and whether one of them is overloaded."))
        for problem in [*(row["problems"] or []), *(row["warnings"] or [])]:
            if problem.startswith("no leader"):
                if not row["silent"]:  # which is why
                    found.append(warning(row, problem, no_leader_advice(report)))
                continue
            advice = next((todo for start, todo in ADVICE if problem.startswith(start)), "")
            found.append(warning(row, problem, advice))
        if (row["behind"] or 0) > FAR_BEHIND:
            found.append(warning(row, f"is {row['behind']:,} entries behind", "It catches up by itself while it runs."))
        disk = row["disk"] or {}
        if disk.get("free", 1) < disk.get("total", 0) / 20:
            found.append(warning(row, "its disk is over 95 % full", "Make room, or let the log be compacted earlier."))
    return found


def unreachable(row: dict[str, Any]) -> dict[str, str]:
    reason = row["error"].rpartition("cannot be reached: ")[2]  # the rest says what this line says already
    if "no answer within" in reason:  # something accepts connections there
        return warning(
            row, f"cannot be reached: {reason}", "Its process hangs or is stopped, or its host is overloaded."
        )
    return warning(row, f"cannot be reached: {reason}", "Start `manage.py raft run` on its host.")


def no_leader_advice(report: dict[str, Any]) -> str:
    if report["leader_id"] is not None:
        return f"{report['leader_id']} leads: see the network between the two."
    if report["majority"]:
        return "An election is going on; it takes a second or two."
    return "Bring voters back until a majority is up."


def warning(row: dict[str, Any], text: str, advice: str) -> dict[str, str]:
    return {"node_id": row["node_id"], "text": text, "advice": advice}
