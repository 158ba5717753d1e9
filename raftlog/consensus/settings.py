"""Times and limits of the core. Seconds and bytes; byte limits count payloads only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Raises ValueError where the values cannot work together.

    heartbeat_interval must be well below election_timeout (§5.6: broadcastTime ≪ electionTimeout).
    """

    # A follower that hears no leader for a random time in [election_timeout, 2 × election_timeout) asks for an
    # election; a leader that no majority answers for election_timeout steps down.
    election_timeout: float = 0.5
    heartbeat_interval: float = 0.1
    # How long a newer commit_index may wait for entries to travel with, to a follower that nobody waits on.
    commit_delay: float = 0.0
    # Whether this server promises to hold its votes, and as a leader reads by such promises (leases.py).
    read_lease: bool = False
    # A server that is to become a voter, and makes no progress for so long, is given up.
    catch_up_timeout: float = 30.0
    # For how long a server of higher priority must have been ready to lead before a leader hands over to it.
    priority_calm: float = 5.0
    # One AppendEntries holds at most so much. One larger entry still goes, alone.
    max_append_bytes: int = 256 * 1024
    max_append_entries: int = 8192
    # Sent to one peer and not yet acknowledged.
    max_inflight_messages: int = 64
    max_inflight_bytes: int = 8 * 1024 * 1024
    # Proposed to this leader and not yet committed; beyond it propose() raises Overloaded.
    max_uncommitted_bytes: int = 128 * 1024 * 1024
    # Recent entries kept in memory. Entries that are not stable stay in memory beyond it.
    max_window_bytes: int = 32 * 1024 * 1024
    # Taken by one take_unstable(): one write and one sync.
    max_sync_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_interval <= self.election_timeout / 2:
            raise ValueError(
                f"heartbeat_interval {self.heartbeat_interval} s must be above 0 and at most half of "
                f"election_timeout {self.election_timeout} s"
            )
        if not 0 <= self.commit_delay <= self.heartbeat_interval:
            raise ValueError(
                f"commit_delay {self.commit_delay} s must be from 0 to heartbeat_interval {self.heartbeat_interval} s"
            )
        for name in (
            *("max_append_bytes", "max_append_entries", "max_inflight_messages", "max_inflight_bytes"),
            *("max_uncommitted_bytes", "max_window_bytes", "max_sync_bytes"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def suspicion_jitter(self) -> float:
        """Longest random wait in seconds between losing the connection to the leader and asking for an election.

        Long enough that the first candidate is usually done before the second begins.
        """
        return min(0.025, self.heartbeat_interval / 4)

    @property
    def suspicion_grace(self) -> float:
        """Seconds for which messages of a suspected leader may be left-overs of its lost connection."""
        return self.heartbeat_interval / 2
