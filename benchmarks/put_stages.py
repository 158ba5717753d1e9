"""From stamps of three processes to stages: where the time of a put goes, entry by entry.

The stages of STAGES follow each other without a gap, so their means add up to the mean of the whole. The follower is
the one whose acknowledgement came first: with three nodes it completes the majority. The leader's own disk works
meanwhile (BESIDE); a put waits for it in "commit" where it is the later of the two.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from raftlog.testing.bench.put_client import Put
from raftlog.testing.bench.put_trace import Stamp

ON_LEADER = ("came", "taken", "appended", "committed", "applying", "applied", "done")
TO_FOLLOWER = ("sending", "encoded", "acked")
ON_FOLLOWER = ("arrived", "submitted", "served", "write", "written", "answered")


@dataclasses.dataclass(frozen=True)
class Stage:
    """From one moment of an entry to another. `floor`: the key of what the machine takes for its like; "": none."""

    text: str
    start: str
    end: str
    floor: str = ""


STAGES = (
    Stage("application to node: encode, local socket, event loop, consumer", "asked", "came", "half a round trip"),
    Stage("queue: a service thread is woken", "came", "taken", "hand-over"),
    Stage("propose: monitor, core, append", "taken", "appended"),
    Stage("peer thread is woken", "appended", "sending", "hand-over"),
    Stage("encode and sign the frame", "sending", "encoded", "encode"),
    Stage("wire: socket, follower's event loop", "encoded", "arrived", "half a round trip"),
    Stage("consumer: verify, decode, inbox", "arrived", "submitted", "decode"),
    Stage("service thread of the follower is woken", "submitted", "served", "hand-over"),
    Stage("follower: monitor, core", "served", "write"),
    Stage("follower: write and sync", "write", "written", "sync"),
    Stage("follower: acknowledge", "written", "answered"),
    Stage("wire back: event loop, encode, socket, leader's reader thread", "answered", "acked", "half a round trip"),
    Stage("commit: monitor, core, the own disk where it is later", "acked", "committed"),
    Stage("apply thread is woken", "committed", "applying", "hand-over"),
    Stage("apply (log only: nothing)", "applying", "applied"),
    Stage("answer: monitor, outcomes", "applied", "done"),
    Stage("node to application: event loop, encode, local socket, decode", "done", "heard", "half a round trip"),
    Stage("caller's thread is woken", "heard", "woken", "hand-over"),
)
BESIDE = (
    Stage("log-sync thread is woken", "appended", "own write", "hand-over"),
    Stage("own disk: write and sync", "own write", "own written", "sync"),
    Stage("own disk was done before the follower's word by", "own written", "acked"),
)
WHOLE = Stage("whole", "asked", "woken")

Entry = Mapping[str, float]  # moment -> seconds


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a stage took, in milliseconds over the entries followed."""

    stage: Stage
    mean: float
    median: float


def moments(stamps: Iterable[Stamp], kind: str, peer: str | None = None) -> dict[int, float]:
    """Index -> when it first passed `kind`. A stamp whose `first` is 0 stands for all since the one before."""
    found: dict[int, float] = {}
    reached = 0
    for stamp in stamps:
        if stamp.kind != kind or (peer is not None and stamp.peer != peer):
            continue
        first = stamp.first
        if not first:  # the first one says nothing of what came before the stamps began
            first = reached + 1 if reached else stamp.last
            reached = max(reached, stamp.last)
        for index in range(first, stamp.last + 1):
            found.setdefault(index, stamp.at)
    return found


def follow(puts: Iterable[Put], leader: Sequence[Stamp], followers: Mapping[str, Sequence[Stamp]]) -> list[Entry]:
    """The moments of each put; those that some stamp is missing of are left out."""
    own = {kind: moments(leader, kind) for kind in ON_LEADER}
    own |= {f"own {kind}": moments(leader, kind) for kind in ("write", "written")}
    there = {
        name: {kind: moments(leader, kind, name) for kind in TO_FOLLOWER}
        | {kind: moments(stamps, kind) for kind in ON_FOLLOWER}
        for name, stamps in followers.items()
    }
    needed = {stage.start for stage in (*STAGES, *BESIDE)} | {stage.end for stage in (*STAGES, *BESIDE)}
    entries: list[Entry] = []
    for put in puts:
        heard = [(each["acked"][put.index], name) for name, each in there.items() if put.index in each["acked"]]
        if not heard:
            continue
        found = {"asked": put.asked, "heard": put.heard, "woken": put.woken}
        for kinds in (own, there[min(heard)[1]]):
            found |= {kind: times[put.index] for kind, times in kinds.items() if put.index in times}
        if needed <= found.keys():
            entries.append(found)
    return entries


def taken(entries: Sequence[Entry], stage: Stage) -> Taken:
    """Raises statistics.StatisticsError: there are no entries."""
    found = [1000 * (entry[stage.end] - entry[stage.start]) for entry in entries]
    return Taken(stage, statistics.fmean(found), statistics.median(found))
