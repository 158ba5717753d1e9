"""`raft recover`: after a majority is gone for good, one survivor begins a new cluster with the log that it has.

The most up-to-date survivor becomes the only voter; everybody else joins it with an empty folder. Several survivors at
once would have to agree on where their logs end, which is what the lost majority was for.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from raftlog.conf import Settings
from raftlog.consensus.configuration import Configuration, Server
from raftlog.consensus.quorum import majority_of
from raftlog.disaster.survivors import Survivor, SurvivorError
from raftlog.runtime import clock
from raftlog.runtime.loading import load_log
from raftlog.storage import open_storage
from raftlog.storage.new_cluster import begin_new_cluster


@dataclass(frozen=True, slots=True)
class Plan:
    """What `raft recover` would do on the node `survivor`."""

    survivor: Survivor
    others: tuple[Survivor, ...]  # survivors that will have to join with an empty folder
    lost: tuple[str, ...]  # members of the cluster that are not among the survivors
    # Whether entries that were acknowledged may be missing in the survivor's log.
    may_lose: bool
    # A term above that of the survivor's last entry, in which somebody may have led; 0: none is known.
    later_term: int

    @property
    def configuration(self) -> Configuration:
        return self.survivor.configuration


def make_plan(local: Survivor, others: Sequence[Survivor]) -> Plan:
    """Raises SurvivorError where there is nothing to recover, or not here, or the survivors do not belong together."""
    everybody = [local, *others]
    for survivor in others:
        _check_belongs(local, survivor)
    names = [survivor.node_id for survivor in everybody]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SurvivorError(f"{', '.join(repeated)} is given more than once")
    if local.cut_from:
        raise SurvivorError(
            f"the log of {local.node_id} was cut at entry {local.cut_from} by `raft repair`, and what was lost is not "
            "there again: use another survivor. Where there is none, its database is what is left: `raft leave`, then "
            "`raft init --adopt`"
        )
    best = max(everybody, key=lambda survivor: (survivor.rank, survivor is local))
    configuration = best.configuration
    if not configuration.servers:
        raise SurvivorError(f"the log of {best.node_id} holds no configuration: this node was never in a cluster")
    if strangers := sorted(set(names) - configuration.servers.keys()):
        members = ", ".join(configuration.servers)
        raise SurvivorError(f"{', '.join(strangers)} is no member any more: the members were {members}")
    _refuse_majority(configuration, names)
    if best is not local:
        raise SurvivorError(
            f"{best.node_id} has more than {local.node_id} (entry {best.last_index} of term {best.last_term}, here "
            f"{local.last_index} of term {local.last_term}): run this on {best.node_id}"
        )
    whole = {survivor.node_id for survivor in everybody if not survivor.cut_from}
    later = max(survivor.current_term for survivor in everybody)
    return Plan(
        best,
        tuple(others),
        tuple(sorted(configuration.servers.keys() - set(names))),
        # What a survivor had promised before its log was cut is as good as lost.
        may_lose=may_have_committed(configuration, set(configuration.servers) - whole),
        later_term=later if later > best.last_term else 0,
    )


def _check_belongs(local: Survivor, survivor: Survivor) -> None:
    for what in ("cluster", "cluster_id"):
        ours, theirs = getattr(local, what), getattr(survivor, what)
        if ours != theirs:
            raise SurvivorError(f"{survivor.node_id} is of {what} {theirs!r}, {local.node_id} of {ours!r}")


def _refuse_majority(configuration: Configuration, names: Sequence[str]) -> None:
    lost = set(configuration.servers) - set(names)
    if can_elect(configuration, set(names)):
        raise SurvivorError(
            f"nothing to recover: {', '.join(sorted(names))} are a majority of the voters "
            f"{', '.join(sorted(configuration.all_voters))}. Start them with `raft run`"
            + (f", then `raft remove` or `raft replace` {', '.join(sorted(lost))}" if lost else "")
        )


def can_elect(configuration: Configuration, names: set[str]) -> bool:
    """Whether these could elect a leader by themselves."""
    return all(
        len(names & set(voters)) >= majority_of(len(voters))
        for voters in (configuration.voters, configuration.outgoing)
        if voters
    )


def may_have_committed(configuration: Configuration, lost: set[str]) -> bool:
    """Whether these could have committed entries that nobody else has.

    Else every majority has a survivor in it, and the most up-to-date survivor has all that was committed (§5.4.1).
    """
    return can_elect(configuration, lost)


def carry_out(plan: Plan, settings: Settings) -> Configuration:
    """Begin the new cluster in the folder of this node, which does not run. Returns its first configuration.

    Raises DirectoryInUse, SurvivorError where the folder is not what the plan was made from, StorageError.
    """
    storage = open_storage(
        settings.data_dir, node_id=settings.node_id, cluster=settings.cluster, segment_bytes=settings.segment_bytes
    )
    try:
        log = load_log(storage.log)
        survivor = plan.survivor
        if (log.last_term, log.last_index) != survivor.rank or storage.metadata.incarnation != survivor.incarnation:
            raise SurvivorError("the folder has changed since it was looked at: run it again")
        return begin_new_cluster(
            storage,
            survivor.configuration,
            Server(settings.address),
            last_term=log.last_term,
            log_time=max(log.last_log_time, clock.wall_microseconds()),
            new_cluster_id=lambda: uuid.uuid4().hex,
        )
    finally:
        storage.close()
