"""A folder's log goes on as that of a new cluster, which this node begins alone (`raft recover`, `raft restore`).

The log is kept, and ends with a configuration in a new term: this server is its only voter, and the cluster's id is
another one, so that no member of the cluster before can be talked with. Which term it is does not matter to those
members, since they are refused for the id.

Order, and what a crash leaves: (1) the new id in `metadata`; a node that finds another one there than in its log
refuses to start and asks for the same command again, which goes on with the id that is there; (2) the term and the vote
for itself; (3) the entry. Each is durable before the next.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from raftlog.consensus.configuration import Configuration, Server, encode_configuration
from raftlog.consensus.entries import EntryBatch, Run
from raftlog.consensus.state import HardState
from raftlog.storage import Storage


def begin_new_cluster(
    storage: Storage,
    former: Configuration,
    server: Server,
    *,
    last_term: int,
    log_time: int,
    new_cluster_id: Callable[[], str],
) -> Configuration:
    """Append the first configuration of the new cluster, durably. Returns it.

    Args:
        storage: open, of this node, which nobody else writes.
        former: the newest configuration of its log.
        server: this node, as the only member.
        last_term: of the last entry, whether the log still holds it or not.
        log_time: of the new entry, microseconds since the epoch; at least that of the last entry.
        new_cluster_id: 32 hex digits, asked for where `metadata` does not hold one from an earlier attempt.

    Raises DiskFull, StorageFailed.
    """
    metadata = storage.metadata
    if metadata.cluster_id and metadata.cluster_id != former.cluster_id:
        cluster_id = metadata.cluster_id
    else:
        cluster_id = new_cluster_id()
    storage.replace_cluster_id(cluster_id)
    term = max(storage.hard_state.load().current_term, last_term) + 1
    storage.hard_state.save(HardState(term, metadata.node_id))
    server = msgspec.structs.replace(server, incarnation=metadata.incarnation)
    configuration = Configuration(
        cluster_id, {metadata.node_id: server}, (metadata.node_id,), recovered_from=former.cluster_id
    )
    payload = encode_configuration(configuration)
    storage.log.append(EntryBatch(storage.log.last_index + 1, [Run(1, term, log_time)], [payload]))
    storage.log.sync()
    return configuration
