"""Where the time of a commit goes: stamps taken in the application's process and in its node.

Both processes run on one machine, so their monotonic clocks are one. The node writes a line for each batch that it
applied; a commit of the only writer meanwhile encloses exactly one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from raftlog.runtime import clock


class AppliedBatch(msgspec.Struct, array_like=True):
    """Times in seconds, `cpu` of the thread that applied."""

    started: float
    ended: float
    cpu: float
    entries: int


class Stages(msgspec.Struct):
    """Seconds that a client spent, over all its transactions, and when it proposed and had its answer."""

    transactions: int = 0
    whole: float = 0.0
    turn: float = 0.0
    gather: float = 0.0
    rollback: float = 0.0
    proposals: list[tuple[float, float]] = []


def trace_apply(path: Path) -> None:
    """In a node: write down each batch that it applies."""
    from raftlog.replication.apply import DatabaseStateMachine

    original = DatabaseStateMachine.apply
    file = path.open("ab", buffering=0)

    def apply(self: DatabaseStateMachine, batch: Any) -> Any:
        started, cpu = clock.monotonic(), clock.thread_cpu()
        outcomes = original(self, batch)
        done = AppliedBatch(started, clock.monotonic(), clock.thread_cpu() - cpu, len(batch.payloads))
        file.write(msgspec.json.encode(done) + b"\n")
        return outcomes

    DatabaseStateMachine.apply = apply  # type: ignore[method-assign]


def read_trace(path: Path, start: float, end: float) -> list[AppliedBatch]:
    """The batches applied between two moments."""
    batches = [msgspec.json.decode(line, type=AppliedBatch) for line in path.read_bytes().splitlines()]
    return [batch for batch in batches if start <= batch.started and batch.ended <= end]


def trace_commits(stages: Stages) -> None:
    """In the one thread of a client: add to `stages` what each transaction of its connection spends where."""
    from django.db import connection

    control: Any = connection.connection.control
    take, commit_changes, rolls_back, propose = (
        control.turn.take,
        control._commit_changes,
        control._roll_back_locally,
        control.log.commit,
    )
    gathers_since = 0.0

    def traced_take(**keywords: Any) -> None:
        started = clock.monotonic()
        take(**keywords)
        stages.turn += clock.monotonic() - started

    def traced_commit(*arguments: Any) -> None:
        nonlocal gathers_since
        gathers_since = clock.monotonic()
        commit_changes(*arguments)

    def traced_rollback() -> None:
        nonlocal gathers_since
        started = clock.monotonic()
        if gathers_since:  # else it is what is left to tidy after the answer
            stages.gather += started - gathers_since
            gathers_since = 0.0
        rolls_back()
        stages.rollback += clock.monotonic() - started

    def traced_propose(*arguments: Any) -> Any:
        started = clock.monotonic()
        verdict = propose(*arguments)
        stages.proposals.append((started, clock.monotonic()))
        return verdict

    control.turn.take = traced_take
    control._commit_changes = traced_commit
    control._roll_back_locally = traced_rollback
    control.log.commit = traced_propose
