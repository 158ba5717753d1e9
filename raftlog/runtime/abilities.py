"""What every voter can apply: a leader proposes no other command, so that an upgrade host by host stops nobody's apply.

Each node says in its hello which commands (name, version) its code has. What a member said last counts while it is
not connected, and over a restart of this node. A voter that this node has never heard is taken to have the leader's
own code: it is told by its first hello, and until then nothing of the leader's reaches it either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from raftlog.consensus.entries import COMMAND, HEADER_BYTES
from raftlog.consensus.raft import Raft
from raftlog.runtime.monitor import Monitor

logger = logging.getLogger("raftlog.runtime")

# name -> versions
Commands = Mapping[str, Sequence[int]]

_SHOWN: Final = 10  # commands of a member that status names

# What a node says beside its commands: it heeds the idempotency key that a command carries.
IDEMPOTENCY_KEYS: Final = ("raftlog.idempotency_keys", 1)


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """As replication.codec.CommandBody, decoded as far as it matters here."""

    name: str
    version: int
    arguments: msgspec.Raw
    keyed: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.msgpack.Decoder(_Body)


class Abilities:
    """One for each node. `own`: what its code has; `remembered`: what the members said before its last restart."""

    def __init__(
        self,
        raft: Raft,
        monitor: Monitor,
        own: Commands,
        remembered: Mapping[str, Commands],
        remember: Callable[[dict[str, dict[str, list[int]]]], None] = lambda members: None,
    ) -> None:
        self._raft = raft
        self._monitor = monitor
        self._remember = remember
        self._of = {node_id: _pairs(commands) for node_id, commands in remembered.items()}
        self._of[raft.node_id] = _pairs(own)
        # (name, version) -> why it is not proposed, "": it is. Of one configuration.
        self._reasons: dict[tuple[str, int], str] = {}
        self._configuration = raft.configuration

    def hear(self, node_id: str, commands: Commands) -> None:
        """A member has said what it can apply. Monitor: takes it."""
        pairs = _pairs(commands)
        with self._monitor:
            if self._of.get(node_id) == pairs or node_id == self._raft.node_id:
                return
            self._of[node_id] = pairs
            self._reasons = {}
            members = {
                each: _as_data(known)
                for each, known in self._of.items()
                if each != self._raft.node_id and each in self._raft.configuration.servers
            }
        self._remember(members)

    def refusal(self, payload: bytes) -> str:
        """Why a leader must not append `payload`; "": it may. Monitor: held."""
        if payload[0] != COMMAND:
            return ""
        try:
            body = _decoder.decode(memoryview(payload)[HEADER_BYTES:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return f"the entry holds no command that can be decoded: {error}"
        if self._configuration is not self._raft.configuration:
            self._configuration = self._raft.configuration
            self._reasons = {}
        reason = self._reason((body.name, body.version))
        return reason or (self._reason(IDEMPOTENCY_KEYS) if bytes(body.keyed) else "")

    def _reason(self, command: tuple[str, int]) -> str:
        reason = self._reasons.get(command)
        if reason is None:
            reason = self._reasons[command] = self._judge(command)
        return reason

    def _judge(self, command: tuple[str, int]) -> str:
        own = self._raft.node_id
        lacking = [voter for voter in sorted(self._raft.configuration.all_voters) if not self._has(voter, command)]
        if not lacking and command not in self._of[own]:
            lacking = [own]
        if not lacking:
            return ""
        if command == IDEMPOTENCY_KEYS:
            what = "idempotency keys of commands are"
        else:
            what = f"the command {command[0]!r} version {command[1]} is"
        return (
            f"{what} not known to {' and '.join(lacking)}; install the "
            "code that has it there and restart the node, or remove a host that is gone for good"
        )

    def _has(self, node_id: str, command: tuple[str, int]) -> bool:
        known = self._of.get(node_id)
        return known is None or command in known

    def lacking(self, node_id: str) -> list[str]:
        """Commands of this node that a member lacks by its last hello, the first few. Monitor: held."""
        known = self._of.get(node_id)
        if known is None:
            return []
        missing = sorted(self._of[self._raft.node_id] - known)
        shown = [f"{name} version {version}" for name, version in missing[:_SHOWN]]
        return [*shown, "…"] if len(missing) > _SHOWN else shown


def _pairs(commands: Commands) -> frozenset[tuple[str, int]]:
    return frozenset((name, version) for name, versions in commands.items() for version in versions)


def _as_data(pairs: frozenset[tuple[str, int]]) -> dict[str, list[int]]:
    commands: dict[str, list[int]] = {}
    for name, version in sorted(pairs):
        commands.setdefault(name, []).append(version)
    return commands
