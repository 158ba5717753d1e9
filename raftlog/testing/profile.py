"""What kind of world a seed gives: how bad network and disks are, which faults happen and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Final

from raftlog.consensus.leases import CLOCK_DRIFT
from raftlog.consensus.settings import RaftSettings
from raftlog.testing.network import NetworkProfile

INFINITY: Final = float("inf")


@dataclass(slots=True)
class Profile:
    """Drawn once a run. Times in seconds, sizes in bytes."""

    settings: RaftSettings
    network: NetworkProfile
    segment_bytes: int
    # Longest wait of the log-sync thread's disk, and of the state-machine thread, each time drawn below it.
    sync_delay: float
    apply_delay: float
    clients: int
    # Clients besides, that only read.
    readers: int
    keys: int
    # Commands are made larger by up to so many bytes: batches of several sectors can be torn.
    largest_padding: int
    # Share of operations that read through ReadIndex.
    read_share: float
    think_time: float
    # Names of faults that happen in this run (raftlog.testing.faults), and after how many events one on average.
    faults: list[str] = field(default_factory=list)
    events_per_fault: float = 60.0
    # Clocks run at rates between 1 - skew and 1 + skew.
    clock_skew: float = 0.0
    # What runs may have besides (Feature names of raftlog.testing.faults), and after how many events an operator acts.
    features: tuple[str, ...] = ()
    events_per_action: float = INFINITY
    # The log is compacted once so many entries are applied, beyond those that are kept for who is a little behind.
    compact_after: int = 1 << 60
    kept_tail: int = 0
    chunk_bytes: int = 1000

    def describe(self) -> str:
        return (
            f"network {self.network}, segments of {self.segment_bytes} bytes, {self.clients} clients, "
            f"faults {', '.join(self.faults) or 'none'} every {self.events_per_fault:.0f} events, "
            f"besides {' and '.join(self.features) or 'nothing'} every {self.events_per_action:.0f} events"
        )


def draw_features(rng: random.Random, profile: Profile) -> None:
    """In about half of the runs members change, in half logs are compacted and databases lost, in some
    damaged disks are repaired.

    A source of its own: whatever else a seed gives stays as it is.
    """
    has_members, has_images, has_repair = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.4
    profile.features = ("members",) * has_members + ("images",) * has_images + ("repair",) * has_repair
    profile.events_per_action = rng.choice((30.0, 80.0, 200.0))
    profile.settings = replace(profile.settings, catch_up_timeout=rng.choice((1.0, 3.0)))
    if has_images:
        profile.compact_after = rng.choice((2, 10, 40))
        profile.kept_tail = rng.choice((0, 2, 10))
        profile.chunk_bytes = rng.choice((200, 1000, 10_000))


def keep_to_leases(rng: random.Random, profile: Profile) -> None:
    """Leases are on, and clocks go as they assume: at rates that differ by less than CLOCK_DRIFT, without jumps.

    Leaders are often cut off, or told to hand over (lease_faults.py).
    """
    profile.settings = replace(profile.settings, read_lease=True)
    profile.clock_skew = rng.choice((0.0, CLOCK_DRIFT / 2.2))
    profile.faults = [name for name in profile.faults if name not in ("clock-rate", "clock-jump")]
    profile.features += ("leases",)
    profile.events_per_action = rng.choice((30.0, 80.0, 150.0))
    profile.readers = max(profile.readers, rng.choice((2, 4)))
    if rng.random() < 0.7:  # a quiet world otherwise: much is committed and read
        profile.faults, profile.network.drop, profile.network.slow = [], 0.0, 0.0
        profile.network.max_delay = min(profile.network.max_delay, 0.02)


def draw_profile(rng: random.Random, fault_names: list[str]) -> Profile:
    """A world at random: faults alone, a few together, or all at once."""
    network = NetworkProfile(
        drop=rng.choice((0.0, 0.0, 0.01, 0.05, 0.15)),
        duplicate=rng.choice((0.0, 0.0, 0.02, 0.1)),
        max_delay=rng.choice((0.002, 0.005, 0.02, 0.06, 0.2)),
        slow=rng.choice((0.0, 0.0, 0.01, 0.03, 0.2)),
        slow_delay=rng.choice((0.1, 0.6, 1.5)),
        ordered=rng.random() < 0.4,
    )
    heartbeat_interval = rng.choice((0.1, 0.15, 0.25))
    settings = RaftSettings(
        election_timeout=0.5,
        heartbeat_interval=heartbeat_interval,
        commit_delay=0.0 if heartbeat_interval == 0.15 else 0.005,
        max_append_bytes=rng.choice((200, 1000, 256 * 1024)),
        max_append_entries=rng.choice((2, 8, 8192)),
        max_inflight_messages=rng.choice((1, 3, 64)),
        max_window_bytes=rng.choice((300, 2000, 1 << 20)),
        max_sync_bytes=rng.choice((150, 1000, 1 << 20)),
    )
    count = rng.choice((1, 2, 3, 5, len(fault_names)))
    return Profile(
        settings=settings,
        network=network,
        segment_bytes=rng.choice((4096, 8192, 16384)),
        sync_delay=rng.choice((0.001, 0.005, 0.03, 0.1)),
        apply_delay=rng.choice((0.0005, 0.01, 0.1)),
        clients=rng.choice((2, 4, 6, 8)),
        readers=rng.choice((0, 0, 2, 4)),
        keys=rng.choice((1, 3, 6)),
        largest_padding=rng.choice((0, 0, 400, 1500)),
        read_share=rng.choice((0.1, 0.3, 0.6)),
        think_time=rng.choice((0.001, 0.01, 0.05)),
        faults=sorted(rng.sample(fault_names, min(count, len(fault_names)))),
        events_per_fault=rng.choice((25.0, 50.0, 100.0, 200.0)),
        clock_skew=rng.choice((0.0, 0.0, 0.05, 0.2)),
    )
