"""What each thread of a process has used, by proc(5): CPU, time it waited for a core, switches of context."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Used:
    """`cpu`, and `waited` for a core while it could run: seconds. `slept`: switches because it had to wait for
    something; `pushed`: because another was let run."""

    cpu: float = 0.0
    waited: float = 0.0
    slept: int = 0
    pushed: int = 0

    @property
    def switches(self) -> int:
        return self.slept + self.pushed

    def __add__(self, other: Used) -> Used:
        return Used(
            self.cpu + other.cpu, self.waited + other.waited, self.slept + other.slept, self.pushed + other.pushed
        )

    def __sub__(self, other: Used) -> Used:
        return Used(
            self.cpu - other.cpu, self.waited - other.waited, self.slept - other.slept, self.pushed - other.pushed
        )


def parse(schedstat: str, status: str) -> Used:
    """Of one thread's two files. Raises KeyError, ValueError: they are no such files."""
    cpu, waited, _ = (int(field) for field in schedstat.split())
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Used(
        cpu / 1e9, waited / 1e9, int(fields["voluntary_ctxt_switches"]), int(fields["nonvoluntary_ctxt_switches"])
    )


def of_process(pid: int) -> dict[int, Used]:
    """Thread id -> what it has used since it began. Threads may come and go meanwhile. Raises OSError."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        folder = Path(f"/proc/{pid}/task/{name}")
        try:
            found[int(name)] = parse((folder / "schedstat").read_text(), (folder / "status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
    return found


def since(before: Mapping[int, Used], after: Mapping[int, Used]) -> dict[int, Used]:
    """What each of those in `after` has used meanwhile; one that was not there before began at nothing."""
    return {thread: used - before.get(thread, Used()) for thread, used in after.items()}


def by_name(used: Mapping[int, Used], names: Mapping[int, str]) -> dict[str, Used]:
    """Added up over the threads of one group of names; the busiest first. Those without a name are "other"."""
    found: dict[str, Used] = {}
    for thread, each in used.items():
        name = group(names.get(thread, "other"))
        found[name] = found.get(name, Used()) + each
    return dict(sorted(found.items(), key=lambda item: -item[1].cpu))


def whole(used: Iterable[Used]) -> Used:
    return sum(used, Used())


_GROUPS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"MainThread", lambda match: "event loop"),
    (r"raftlog-request.*", lambda match: "requests"),
    (r"raftlog-peer-events.*", lambda match: "peer events"),
    (r"raftlog-[^-]+-service-\d+", lambda match: "service threads"),
    (r"raftlog-[^-]+-reader-.+", lambda match: "readers of peers"),
    (r"raftlog-[^-]+-peer-.+", lambda match: "peer threads"),
    (r"raftlog-[^-]+-(.+)", lambda match: match[1]),
)


def group(name: str) -> str:
    """A thread's name without its node and number: "raftlog-a-peer-b" is one of the "peer threads"."""
    for pattern, word in _GROUPS:
        if match := re.fullmatch(pattern, name):
            return word(match)
    return name
