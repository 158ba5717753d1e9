"""Whether a database is a point of this node's own log (rule 5 of the design)."""

from __future__ import annotations

from raftlog.consensus.log import RaftLog
from raftlog.exceptions import IdentityMismatch
from raftlog.runtime.ports import StateMachine


def check_position(machine: StateMachine, log: RaftLog, cluster_id: str, *, may_be_ahead: bool = False) -> None:
    """Refuse a database that is not a point of this node's own log (rule 5 of the design).

    may_be_ahead: the log was repaired, and what the database had applied of it is being fetched again.
    """
    position = getattr(machine, "position", None)
    if position is None:
        return
    found_cluster, index, term = position()
    ways_out = (
        "Either the log folder or the database was exchanged or restored from elsewhere. Give this node the folder and "
        "the database that belong together; or delete its database (it is rebuilt from the log or from other nodes)."
    )
    logs_cluster = log.configuration[1].cluster_id
    if cluster_id and logs_cluster and cluster_id != logs_cluster:
        raise IdentityMismatch(
            f"the folder belongs to cluster {cluster_id}, its log to {logs_cluster}: `raft recover` or `raft restore` "
            "was interrupted here. Run it again"
        )
    at_index = cluster_at(log, index) or cluster_id
    if found_cluster and at_index and found_cluster != at_index:
        raise IdentityMismatch(f"the database belongs to cluster {found_cluster}, the log to {at_index}. {ways_out}")
    if index > log.last_index:
        if may_be_ahead:
            return
        if not log.last_index:
            ways_out = (
                "So this node's log was lost, and with it what it had promised: it cannot go on as the one it was. "
                "Delete its database too, start it, and on any host that is up: manage.py raft replace NODE_ID ADDRESS "
                "(under its old name; it fetches all from the others). If there is none: manage.py raft restore"
            )
        raise IdentityMismatch(
            f"the database has applied entry {index}, but the log of this node ends at {log.last_index}. {ways_out}"
        )
    # A database that is older than the log's base is brought up by an image (snapshots/pulling.py).
    if index and not log.matches(index, term):
        raise IdentityMismatch(
            f"the database has applied entry {index} of term {term}, the log has term {log.term_at(index)} there. "
            f"{ways_out}"
        )


def cluster_at(log: RaftLog, index: int) -> str:
    """The cluster whose log this was at `index`: a recovered or restored one goes on with that of another."""
    found = [configuration.cluster_id for at, configuration in log.configurations if at <= index]
    return found[-1] if found else ""
