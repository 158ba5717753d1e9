"""Django signals. Receivers run in the thread named here, after the fact; what they raise is logged.

`leader_changed`: sender the Node; `leader_id` (str, "" where none is known), `term` (int).
    Sent by the node's event thread, for every change that this node learns of.
`membership_changed`: sender the Node; `configuration` (raftlog.consensus.configuration.Configuration), `index` (int).
`entry_applied`: sender DatabaseStateMachine; `index`, `term` (int), `command` (str, its name), `version` (int),
    `status` (raftlog.runtime.ports.APPLIED or FAILED). Sent by the state-machine thread, once for each command,
    after the transaction of its batch was committed, on every node alike. A slow receiver slows the node down.
`divergence_found`: sender the Node; `divergence` (raftlog.replication.divergence.Divergence: node_id, index, is_exact,
    cause, command, version, tables, rows with key and both values, peer). Sent once, by the thread that found it, on
    the node whose database differs from the majority's.
`damage_found`: sender the Node; `finding` (raftlog.storage.verify.Finding: path, offset, what, entries). Sent by the
    scrubber's thread, once for each place of this node's folder that is not as it was written.
`rows_changed`: sender the model, None where the project has none of the table; `table` (str), `model`, `operation`
    ("insert", "update", "delete", "table", "schema"; see raftlog.ChangedRow), `keys` (list of primary keys), `columns`
    (tuple of str: those that an update changed), `index` (int), `command` (str, "" for a transaction), `from_here`
    (bool: this process has run what made the change, so it has had Django's own signals). Sent in the node's process,
    and where raftlog.follow_changes() was called, by the follower's thread, after the commit, in the order of the log.
`changes_reset`: sender None; `index` (int). What was changed before this index was not, or not all, told: what was made
    of it must be made anew. Sent by the follower's thread.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

from raftlog.log_fields import log_fields

leader_changed = Signal()
membership_changed = Signal()
entry_applied = Signal()
divergence_found = Signal()
damage_found = Signal()
rows_changed = Signal()
changes_reset = Signal()


def send_logged(signal: Signal, logger: logging.Logger, **arguments: Any) -> None:
    """Send to all receivers. What one of them raises is logged and harms nobody else. Any thread."""
    for receiver, answer in signal.send_robust(**arguments):
        if isinstance(answer, Exception):
            logger.error(
                "receiver %r of a signal failed: %s",
                *(receiver, answer),
                exc_info=answer,
                extra=log_fields("receiver_failed", about=repr(receiver), reason=str(answer)),
            )
