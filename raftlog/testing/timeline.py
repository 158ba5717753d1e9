"""A counterexample of the linearizability checker, for people: as text, and as a small HTML page of its own."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from raftlog.testing.history import Operation

if TYPE_CHECKING:
    from raftlog.testing.linearizability import Counterexample

SHOWN: Final = 40  # operations before the one that fits nowhere


def counterexample_text(found: Counterexample) -> str:
    """The end of the longest order that holds, and what cannot come after it."""
    lines = ["not linearizable" + ("" if found.partition is None else f": key {found.partition!r}")]
    skipped = max(0, len(found.placed) - SHOWN)
    if skipped:
        lines.append(f"  … {skipped} operations placed before, which lead to {found.states[skipped - 1]!r}")
    for number in range(skipped, len(found.placed)):
        lines.append(f"  {number + 1:>5}. {_moment(found.placed[number])}   then: {found.states[number]!r}")
    state = repr(found.states[-1]) if found.states else "the first state"
    lines.append(f"  in {state} this cannot be placed any more:")
    lines.append(f"         {_moment(found.failed)}")
    others = [operation for operation in found.tried if operation is not found.failed]
    if others:
        lines.append("  other operations were pending, and none of them makes it fit:")
        lines.extend(f"         {_moment(operation)}" for operation in others[:SHOWN])
    return "\n".join(lines)


def _moment(operation: Operation) -> str:
    end = "never answered" if operation.is_unknown else f"{operation.returned_at:.6f}"
    return f"[{operation.invoked_at:.6f}, {end}] {operation}"


_STYLE: Final = """
body{font:13px system-ui,sans-serif;margin:1.5em;color:#222}h1{font-size:16px}
.row{position:relative;height:26px;border-top:1px solid #eee}.name{position:absolute;left:0;width:9em;line-height:26px}
.lane{position:absolute;left:9em;right:0;top:0;bottom:0}
.op{position:absolute;top:3px;height:20px;line-height:20px;box-sizing:border-box;overflow:hidden;white-space:nowrap;
padding:0 3px;border:1px solid #5a8;background:#e4f5ec;border-radius:3px;font-size:11px}
.op.open{border-right:3px dotted #888;background:#f2f2f2;border-color:#999}
.op.failed{border:2px solid #c00;background:#fdd;z-index:2}
.op.pending{border-color:#c90;background:#fff3d0}
.op:hover{overflow:visible;z-index:3;min-width:max-content}pre{background:#f7f7f7;padding:1em;overflow:auto}
""".strip()

_LEGEND: Final = (
    "Numbers: the longest order that holds. Red: fits nowhere after it. Yellow: pending then, tried too. "
    "Dotted: never answered. Time runs to the right, one step for each call or answer."
)


def counterexample_html(found: Counterexample) -> str:
    """A timeline: one lane a client, numbers are the order found, red is what fits nowhere."""
    shown = set(map(id, found.placed[-SHOWN:])) | {id(found.failed)} | set(map(id, found.tried))
    operations = [operation for operation in found.operations if id(operation) in shown]
    position = _positions(operations)
    width = max(position.values(), default=1) + 1
    order = {id(operation): number for number, operation in enumerate(found.placed, 1)}
    tried = set(map(id, found.tried))
    lanes: dict[str, list[str]] = {}
    for operation in operations:
        left = position[(id(operation), 0)] / width * 100
        right = position.get((id(operation), 1), width) / width * 100
        kind = "op"
        if operation is found.failed:
            kind += " failed"
        elif operation.is_unknown:
            kind += " open"
        elif id(operation) in tried:
            kind += " pending"
        number = f"{order[id(operation)]}: " if id(operation) in order else ""
        label = html.escape(f"{number}{str(operation).partition(': ')[2]}")
        title = html.escape(_moment(operation))
        lanes.setdefault(operation.client, []).append(
            f'<div class="{kind}" style="left:{left:.2f}%;width:{right - left:.2f}%" title="{title}">{label}</div>'
        )
    rows = "".join(
        f'<div class="row"><div class="name">{html.escape(client)}</div><div class="lane">{"".join(bars)}</div></div>\n'
        for client, bars in sorted(lanes.items())
    )
    heading = "Not linearizable" + ("" if found.partition is None else f": key {html.escape(repr(found.partition))}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{heading}</h1><p>{_LEGEND}</p>\n{rows}"
        f"<pre>{html.escape(counterexample_text(found))}</pre></body></html>\n"
    )


def _positions(operations: list[Operation]) -> dict[tuple[int, int], int]:
    """Where calls (…, 0) and answers (…, 1) stand: by order, not by time, so that a crowded moment stays readable."""
    moments: list[tuple[float, int, int]] = []
    for operation in operations:
        moments.append((operation.invoked_at, 0, id(operation)))
        if not operation.is_unknown:
            moments.append((operation.returned_at, 1, id(operation)))
    moments.sort(key=lambda moment: moment[:2])
    return {(identity, kind): number for number, (_, kind, identity) in enumerate(moments)}
