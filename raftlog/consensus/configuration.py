"""Who is in the cluster: voters, outgoing voters while two configurations overlap, learners (paper section 6).

A configuration is a value and the body of a CONFIGURATION entry. A server uses the newest one in its
log, committed or not (§6: "a server always uses the latest configuration in its log").
"""

from __future__ import annotations

import msgspec

from raftlog.consensus.entries import CONFIGURATION
from raftlog.exceptions import InvalidEntry


class Server(msgspec.Struct, array_like=True, frozen=True):
    """One member. `incarnation` names the folder it was made with (16 hex-encoded bytes, "" before bootstrap).

    Of the voters that could lead, the one of the highest `priority` is to (priority.py).
    """

    address: str
    incarnation: str = ""
    priority: int = 0


class Configuration(msgspec.Struct, array_like=True, frozen=True):
    """Members of the cluster, by node id.

    Guarantees, tested by check():
    1. `voters`, `outgoing` and `learners` are sorted and without repeats, and each is a key of `servers`.
    2. No learner is a voter (incoming or outgoing); every server has one of the three parts.
    3. `outgoing` is empty except while the configuration is joint (Cold,new).
    4. `goal_voters` are the voters of the configuration that a change is on its way to, `goal_members` all its
       servers; both are empty except during a change, and set whenever it is joint.
    5. `recovered_from` is set in the first configuration of a cluster that goes on with the log of another (`raft
       recover`, `raft restore`): the id of that one.
    """

    cluster_id: str = ""  # 32 hex digits, drawn when the cluster is formed; "" before
    servers: dict[str, Server] = {}
    voters: tuple[str, ...] = ()
    outgoing: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    goal_voters: tuple[str, ...] = ()
    goal_members: tuple[str, ...] = ()
    recovered_from: str = ""

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def all_voters(self) -> frozenset[str]:
        return frozenset(self.voters) | frozenset(self.outgoing)

    def is_voter(self, node_id: str) -> bool:
        return node_id in self.voters or node_id in self.outgoing

    def priority_of(self, node_id: str) -> int:
        server = self.servers.get(node_id)
        return server.priority if server is not None else 0

    # What operators ask for, as targets of a change

    def with_server(self, node_id: str, server: Server, *, voter: bool) -> Configuration:
        """This one with `node_id` added or changed, as a voter or a learner."""
        voters = set(self.voters) - {node_id}
        if voter:
            voters.add(node_id)
        return self._target({**self.servers, node_id: server}, voters)

    def without(self, node_id: str) -> Configuration:
        """This one without `node_id`. Raises KeyError where it is no member."""
        servers = dict(self.servers)
        del servers[node_id]
        return self._target(servers, set(self.voters) - {node_id})

    def _target(self, servers: dict[str, Server], voters: set[str]) -> Configuration:
        learners = tuple(sorted(servers.keys() - voters))
        return Configuration(self.cluster_id, servers, tuple(sorted(voters)), (), learners)

    def check(self) -> None:
        """Raise InvalidEntry, naming the guarantee that does not hold."""
        for name in ("voters", "outgoing", "learners", "goal_voters", "goal_members"):
            members = getattr(self, name)
            if list(members) != sorted(set(members)):
                raise InvalidEntry(f"configuration.{name} {members!r} is not sorted or repeats a server")
            if missing := set(members) - set(self.servers):
                raise InvalidEntry(f"configuration.{name} names {sorted(missing)}, not among its servers")
        if overlap := set(self.learners) & self.all_voters:
            raise InvalidEntry(f"{sorted(overlap)} are both learners and voters")
        if idle := set(self.servers) - self.all_voters - set(self.learners):
            raise InvalidEntry(f"{sorted(idle)} are neither voters nor learners")
        if strangers := set(self.goal_voters) - set(self.goal_members):
            raise InvalidEntry(f"{sorted(strangers)} are to vote, but not to be members")
        if bool(self.goal_members) != bool(self.goal_voters) or (self.is_joint and self.voters != self.goal_voters):
            raise InvalidEntry(
                f"the voters are {self.voters!r} and the goal is {self.goal_voters!r} among {self.goal_members!r}: "
                "a joint configuration is on its way to its voters"
            )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    """The payload of a CONFIGURATION entry."""
    return bytes([CONFIGURATION]) + _encoder.encode(configuration)


def decode_configuration(payload: bytes) -> Configuration:
    """Raises InvalidEntry where the payload is no valid configuration."""
    if payload[:1] != bytes([CONFIGURATION]):
        raise InvalidEntry(f"kind {payload[:1].hex()} is no configuration")
    try:
        configuration = _decoder.decode(memoryview(payload)[1:])
    except msgspec.DecodeError as error:
        raise InvalidEntry(f"configuration entry cannot be decoded: {error}") from error
    configuration.check()
    return configuration
