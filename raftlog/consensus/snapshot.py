"""What a log must know of the entries that it no longer holds (paper §7)."""

from __future__ import annotations

import msgspec

from raftlog.consensus.configuration import Configuration


class LogBase(msgspec.Struct, array_like=True, frozen=True):
    """The last entry before those that a log holds; all zero before a log that begins at index 1.

    It is what §7 calls last included index and term, with the configuration in force there, which the log would
    otherwise have lost with the entry that carried it, and the log time, which never goes back.
    """

    index: int = 0
    term: int = 0
    log_time: int = 0  # of that entry, microseconds since the epoch
    configuration_index: int = 0  # of the newest CONFIGURATION entry up to `index`, inclusive
    configuration: Configuration = Configuration()
