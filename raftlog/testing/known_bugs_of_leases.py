"""Known bugs of read leases (raftlog.testing.mutations)."""

from __future__ import annotations

from raftlog.consensus import request_vote, timeout_now, timing
from raftlog.consensus.server_state import ServerState
from raftlog.testing.mutations import Patch, mutation


@mutation("lease-survives-timeout-now", "a leader goes on reading by its lease after it sent TimeoutNow", leases=True)
def _lease_survives_timeout_now() -> list[Patch]:
    return [(timeout_now, "end_lease", lambda state: None)]


@mutation(
    "votes-in-spite-of-leases", "a lost connection shortens the refusal of votes though leases are on", leases=True
)
def _votes_in_spite_of_leases() -> list[Patch]:
    def holds(state: ServerState, now: float) -> bool:
        return False

    return [(timing, "holds_votes", holds), (request_vote, "holds_votes", holds)]


@mutation(
    "candidate-forgets-its-promise", "a follower that holds its vote for others stands for election itself", leases=True
)
def _candidate_forgets_its_promise() -> list[Patch]:
    return [(request_vote, "holds_votes", lambda state, now: False)]
