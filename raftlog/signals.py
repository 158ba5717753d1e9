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
"""

from __future__ import annotations

from django.dispatch import Signal

leader_changed = Signal()
membership_changed = Signal()
entry_applied = Signal()
divergence_found = Signal()
damage_found = Signal()
