"""What stands in for entries that a log no longer holds (paper §7): its base, and the image that a server pulls."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from raftlog.consensus.configuration import Configuration


class LogBase(msgspec.Struct, array_like=True, frozen=True):
    """The last entry before those that a log holds; all zero before a log that begins at index 1.

    It is what §7 calls last included index and term, with the configuration in force there, which the log would
    otherwise have lost with the entry that carried it, and the log time, which never goes back.
    """

    index: int = 0
    term: int = 0
    log_time: int = 0  # of that entry, or of a later one, microseconds since the epoch
    configuration_index: int = 0  # of the newest CONFIGURATION entry up to `index`, inclusive
    configuration: Configuration = Configuration()
    # A term in which the entry was known to be committed; 0 where that was not noted. Whoever takes the base over from
    # another server must not follow a leader of an older term, whose log may lack the entry.
    committed_in: int = 0


NO_BASE = LogBase()


class SnapshotWanted(NamedTuple):
    """This server needs an image of the database: pull one, then call restore_snapshot() and applied_to().

    peer: who offered it, or the leader; "" where neither is known: any server will do.
    minimum_index: the image must hold at least so much, else the entries that follow it are not to be had.
    """

    peer: str
    minimum_index: int


class Transfer(NamedTuple):
    """How far the pulling of an image is: what a follower tells its leader. All zero: none is going on."""

    snapshot_index: int = 0
    received_bytes: int = 0
    total_bytes: int = 0  # 0: not known yet
