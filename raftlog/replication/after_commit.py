"""What happens once a transaction of apply is in the database: hooks, effects on the leader, signals."""

from __future__ import annotations

import logging
from collections.abc import Callable

from raftlog import signals
from raftlog.log_fields import log_fields
from raftlog.replication.context import applying
from raftlog.replication.run import Run

logger = logging.getLogger("raftlog.apply")


def after_commit(run: Run, is_leader: Callable[[], bool], sender: type) -> None:
    """Effects outside the database, `sender` that of the signals. Whatever they raise, the entries are applied."""
    effects = [(f"an on_commit hook of entries up to {run.applied.index}", hook) for hook in run.hooks]
    if any(context.effects for context, _, _ in run.done) and is_leader():
        effects += [
            (f"on_leader of entry {context.index} ({context.command})", effect)
            for context, _, _ in run.done
            for effect in context.effects
        ]
    applying.command = run.done[-1][0] if run.done else None
    try:
        for what, effect in effects:
            try:
                effect()
            except Exception:  # user code; the entry is applied whatever it does
                logger.exception("%s failed", what, extra=log_fields("receiver_failed", about=what))
        if signals.entry_applied.receivers:
            _send_signals(run, sender)
    finally:
        applying.command = None


def _send_signals(run: Run, sender: type) -> None:
    for context, command, status in run.done:
        answers = signals.entry_applied.send_robust(
            sender,
            index=context.index,
            term=context.term,
            command=command.name,
            version=command.version,
            status=status,
        )
        for receiver, answer in answers:
            if isinstance(answer, Exception):
                logger.error(
                    "entry_applied receiver %r failed at entry %d",
                    *(receiver, context.index),
                    exc_info=answer,
                    extra=log_fields("receiver_failed", index=context.index, about=repr(receiver)),
                )
