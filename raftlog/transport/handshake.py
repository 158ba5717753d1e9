"""The handshake: who is on the other side, proved by a shared secret before anything else is read.

    client                                   server
    Hello (who, nonce, key ids)      ->
                                     <-      Challenge (who, nonce, chosen key, the server's proof)
    Proof, then About in a frame     ->
                                     <-      About in a frame: accepted

A proof is an HMAC-SHA256 over both hellos as they were sent: nonces, version, role, cluster, cluster id,
node ids and incarnations of both sides. The keys of the frames that follow (one for each direction) come
from the same secret and the same bytes, so a session exists only between two sides that hold a common
secret and agree on all of that. Any secret of the list is accepted: the client names its keys by an id
that only a holder of the key can compute, the server takes the first that it has too (rotation: add the
new key at the end everywhere, then move it to the front, then drop the old one).

No I/O here: a side is fed what was received and says what to send. What the other side sends before it is
proved is bounded by MAX_HANDSHAKE_BYTES.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

import msgspec

from raftlog.exceptions import FrameRefused, HandshakeRefused
from raftlog.transport.close_codes import (
    BAD_FRAME,
    FRAME_TOO_LARGE,
    UNKNOWN_NODE,
    WRONG_CLUSTER,
    WRONG_NODE,
    WRONG_SECRET,
    WRONG_VENDOR,
    WRONG_VERSION,
    with_hint,
)
from raftlog.transport.frames import BODY_AT, MAX_BODY_BYTES, MAX_MESSAGE_BYTES, Codec, FrameReader, FrameWriter

MIN_VERSION: Final = 1
MAX_VERSION: Final = 1
PEER: Final = "peer"
CLIENT: Final = "client"
# Where each role connects.
PEER_PATH: Final = "/raft/peer/"
CLIENT_PATH: Final = "/raft/client/"

MAX_HANDSHAKE_BYTES: Final = 8 * 1024
HANDSHAKE_TIMEOUT: Final = 5.0  # seconds
NONCE_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
MIN_SECRET_BYTES: Final = 16
MAX_NAME_BYTES: Final = 255
_ABOUT: Final = 2  # the kind of the frame that carries About

T = TypeVar("T")


@dataclass
class Identity:
    """Who this side is. `cluster_id` is asked at each handshake: "" before the cluster is formed."""

    node_id: str
    cluster: str
    secret_keys: Sequence[bytes] = field(repr=False)
    cluster_id: Callable[[], str] = lambda: ""
    incarnation: str = ""
    address: str = ""
    # What this node can apply: name -> versions.
    commands: Mapping[str, Sequence[int]] = field(default_factory=dict)
    vendor: str = ""

    def __post_init__(self) -> None:
        if not self.secret_keys:
            raise ValueError("secret_keys is empty; give at least one key")
        for key in self.secret_keys:
            if len(key) < MIN_SECRET_BYTES:
                raise ValueError(f"a secret key has {len(key)} bytes; the least is {MIN_SECRET_BYTES}")
        for name in ("node_id", "cluster", "incarnation", "address"):
            if len(getattr(self, name).encode()) > MAX_NAME_BYTES:
                raise ValueError(f"{name} has more than {MAX_NAME_BYTES} bytes: {getattr(self, name)!r}")


@dataclass(frozen=True)
class RemoteHello:
    """What the other side proved to be, and what it says about itself."""

    node_id: str
    role: str
    version: int
    cluster_id: str
    incarnation: str
    address: str = ""
    commands: dict[str, list[int]] = field(default_factory=dict)
    vendor: str = ""


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="raftlog-hello"):
    min_version: int
    max_version: int
    role: str
    cluster: str
    cluster_id: str
    node_id: str
    incarnation: str
    recipient: str  # the node that it means to reach; "": any
    nonce: bytes
    key_ids: list[bytes]


class ServerHello(msgspec.Struct, array_like=True, frozen=True):
    version: int
    cluster_id: str
    node_id: str
    incarnation: str
    nonce: bytes
    key_id: bytes


class Challenge(msgspec.Struct, array_like=True, frozen=True, tag="raftlog-challenge"):
    hello: bytes  # a ServerHello, encoded: the proof is over these bytes
    proof: bytes


class Proof(msgspec.Struct, array_like=True, frozen=True, tag="raftlog-proof"):
    proof: bytes


class About(msgspec.Struct, array_like=True, frozen=True):
    """What only an authenticated side gets to see."""

    commands: dict[str, list[int]]
    vendor: str
    address: str


@dataclass(frozen=True)
class Session(Generic[T]):
    """A connection that was authenticated: whose it is, and its two halves."""

    remote: RemoteHello
    reader: FrameReader[T]
    writer: FrameWriter[T]


_encoder = msgspec.msgpack.Encoder()


def key_id(key: bytes, client_nonce: bytes) -> bytes:
    """Names `key` in one handshake, to those who hold it."""
    return hmac.digest(key, b"raftlog key id" + client_nonce, "sha256")[:KEY_ID_BYTES]


class _Transcript:
    """Both hellos as sent, under one secret: the two proofs and the two frame keys."""

    def __init__(self, key: bytes, client_hello: bytes, server_hello: bytes) -> None:
        self._key = key
        self._digest = hashlib.sha256(
            len(client_hello).to_bytes(4, "big") + client_hello + len(server_hello).to_bytes(4, "big") + server_hello
        ).digest()

    def derive(self, label: bytes) -> bytes:
        return hmac.digest(self._key, b"raftlog " + label + b"\0" + self._digest, "sha256")

    @property
    def server_proof(self) -> bytes:
        return self.derive(b"server proof")

    @property
    def client_proof(self) -> bytes:
        return self.derive(b"client proof")

    def session(
        self, remote: RemoteHello, codec: Codec[T], reads: bytes, writes: bytes, max_message_bytes: int
    ) -> Session[T]:
        reader = FrameReader(self.derive(reads), codec, max_message_bytes)
        return Session(remote, reader, FrameWriter(self.derive(writes), codec))


_TO_SERVER: Final = b"frames to the server"
_TO_CLIENT: Final = b"frames to the client"


def _decode(data: bytes, message_type: type[T], name: str) -> T:
    """Raises HandshakeRefused where it is too large or no such message."""
    if len(data) > MAX_HANDSHAKE_BYTES:
        raise HandshakeRefused(
            FRAME_TOO_LARGE, f"{name} is {len(data)} bytes, the limit is MAX_HANDSHAKE_BYTES {MAX_HANDSHAKE_BYTES}"
        )
    try:
        return msgspec.msgpack.decode(data, type=message_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HandshakeRefused(BAD_FRAME, f"{name} cannot be decoded: {error}") from error


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise HandshakeRefused(BAD_FRAME, f"nonce has {len(nonce)} bytes, not {NONCE_BYTES}")


def _check_cluster_id(ours: str, theirs: str) -> None:
    if ours and theirs and ours != theirs:
        reason = f"cluster id is {theirs[:40]!r}, here it is {ours!r}"
        raise HandshakeRefused(WRONG_CLUSTER, with_hint(WRONG_CLUSTER, reason))


def _about_frame(identity: Identity, writer: FrameWriter[Any]) -> bytes:
    commands = {name: list(versions) for name, versions in identity.commands.items()}
    frame = bytearray(BODY_AT)
    _encoder.encode_into(About(commands, identity.vendor, identity.address), frame, BODY_AT)
    if len(frame) > BODY_AT + MAX_BODY_BYTES:
        raise ValueError(f"the names of {len(commands)} commands take more than {MAX_BODY_BYTES} bytes")
    return bytes(writer.seal(frame, _ABOUT))


def _with_about(session: Session[T], frame: bytes, vendor: str) -> Session[T]:
    """The session, its remote completed by what the first frame says. `vendor`: of this side.

    Raises HandshakeRefused.
    """
    try:
        body = session.reader.open(frame)
        about = msgspec.msgpack.decode(body, type=About)
    except FrameRefused as error:
        raise HandshakeRefused(error.code, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HandshakeRefused(BAD_FRAME, f"about cannot be decoded: {error}") from error
    if session.remote.role == PEER and about.vendor != vendor and about.vendor and vendor:
        raise HandshakeRefused(
            WRONG_VENDOR,
            f"the database of {session.remote.node_id!r} is {about.vendor[:40]!r}, here it is {vendor!r}: "
            "all nodes of a cluster use one",
        )
    remote = replace(session.remote, address=about.address, commands=about.commands, vendor=about.vendor)
    return Session(remote, session.reader, session.writer)


class ClientHandshake(Generic[T]):
    """The connecting side: send `hello()`, then what each receive() returns, until `session` is set."""

    def __init__(
        self,
        identity: Identity,
        role: str,
        codec: Codec[T],
        *,
        recipient: str = "",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._identity = identity
        self._codec = codec
        self._recipient = recipient
        self._max_message_bytes = max_message_bytes
        self._cluster_id = identity.cluster_id()
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._keys = {key_id(key, nonce): key for key in identity.secret_keys}
        self._role = role
        self._hello = _encoder.encode(
            Hello(
                MIN_VERSION,
                MAX_VERSION,
                role,
                identity.cluster,
                self._cluster_id,
                identity.node_id,
                identity.incarnation,
                recipient,
                nonce,
                list(self._keys),
            )
        )
        self._unfinished: Session[T] | None = None
        self.session: Session[T] | None = None

    def hello(self) -> bytes:
        return self._hello

    def receive(self, data: bytes) -> list[bytes]:
        """Raises HandshakeRefused: end the connection with its code and reason."""
        if self._unfinished is None:
            return self._on_challenge(data)
        self.session = _with_about(self._unfinished, data, self._identity.vendor)
        return []

    def _on_challenge(self, data: bytes) -> list[bytes]:
        challenge = _decode(data, Challenge, "challenge")
        hello = _decode(challenge.hello, ServerHello, "the server's hello")
        _check_nonce(hello.nonce)
        key = self._keys.get(hello.key_id)
        if key is None:
            raise HandshakeRefused(WRONG_SECRET, "the server chose a key that was not offered")
        transcript = _Transcript(key, self._hello, challenge.hello)
        if not hmac.compare_digest(challenge.proof, transcript.server_proof):
            raise HandshakeRefused(WRONG_SECRET, "the server could not prove that it holds the secret")
        if not MIN_VERSION <= hello.version <= MAX_VERSION:
            raise HandshakeRefused(
                WRONG_VERSION, f"the server chose version {hello.version}, here {MIN_VERSION} to {MAX_VERSION}"
            )
        _check_cluster_id(self._cluster_id, hello.cluster_id)
        if self._recipient and hello.node_id != self._recipient:
            raise HandshakeRefused(WRONG_NODE, f"this address belongs to {hello.node_id!r}, not {self._recipient!r}")
        remote = RemoteHello(hello.node_id, self._role, hello.version, hello.cluster_id, hello.incarnation)
        self._unfinished = transcript.session(remote, self._codec, _TO_CLIENT, _TO_SERVER, self._max_message_bytes)
        proof = _encoder.encode(Proof(transcript.client_proof))
        return [proof, _about_frame(self._identity, self._unfinished.writer)]


class ServerHandshake(Generic[T]):
    """The accepting side: feed it what arrives, send what each receive() returns, until `session` is set.

    `allow_peer(node_id)` says whether a node may connect as a peer; it is asked once the node has proved who it is.
    """

    def __init__(
        self,
        identity: Identity,
        role: str,
        codec: Codec[T],
        *,
        allow_peer: Callable[[str], bool] = lambda node_id: True,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._identity = identity
        self._role = role
        self._codec = codec
        self._allow_peer = allow_peer
        self._max_message_bytes = max_message_bytes
        self._transcript: _Transcript | None = None
        self._remote: RemoteHello | None = None
        self._unfinished: Session[T] | None = None
        self.session: Session[T] | None = None

    def receive(self, data: bytes) -> list[bytes]:
        """Raises HandshakeRefused: end the connection with its code and reason."""
        if self._transcript is None:
            return self._on_hello(data)
        if self._unfinished is None:
            return self._on_proof(data, self._transcript)
        session = _with_about(self._unfinished, data, self._identity.vendor)
        self.session = session
        return [_about_frame(self._identity, session.writer)]

    def _on_hello(self, data: bytes) -> list[bytes]:
        hello = _decode(data, Hello, "hello")
        _check_nonce(hello.nonce)
        version = self._check_hello(hello)
        offered = set(hello.key_ids)
        for key in self._identity.secret_keys:
            chosen = key_id(key, hello.nonce)
            if chosen in offered:
                break
        else:
            raise HandshakeRefused(
                WRONG_SECRET, f"wrong secret: none of the {len(offered)} keys offered is among SECRET_KEYS here"
            )
        cluster_id = self._identity.cluster_id()
        _check_cluster_id(cluster_id, hello.cluster_id)
        server_hello = _encoder.encode(
            ServerHello(
                version,
                cluster_id,
                self._identity.node_id,
                self._identity.incarnation,
                secrets.token_bytes(NONCE_BYTES),
                chosen,
            )
        )
        self._transcript = _Transcript(key, data, server_hello)
        self._remote = RemoteHello(hello.node_id, hello.role, version, hello.cluster_id, hello.incarnation)
        return [_encoder.encode(Challenge(server_hello, self._transcript.server_proof))]

    def _check_hello(self, hello: Hello) -> int:
        """The version to speak. Raises HandshakeRefused."""
        version = min(hello.max_version, MAX_VERSION)
        if version < max(hello.min_version, MIN_VERSION):
            raise HandshakeRefused(
                WRONG_VERSION,
                f"version {hello.min_version} to {hello.max_version} offered, here {MIN_VERSION} to {MAX_VERSION}: "
                "upgrade the older one",
            )
        if hello.role != self._role:
            raise HandshakeRefused(BAD_FRAME, f"role is {hello.role[:40]!r}, this path is for {self._role!r}")
        if hello.cluster != self._identity.cluster:
            raise HandshakeRefused(
                WRONG_CLUSTER, f"cluster is {hello.cluster[:40]!r}, here it is {self._identity.cluster!r}"
            )
        if hello.recipient and hello.recipient != self._identity.node_id:
            raise HandshakeRefused(
                WRONG_NODE, f"this address belongs to {self._identity.node_id!r}, not {hello.recipient[:40]!r}"
            )
        return version

    def _on_proof(self, data: bytes, transcript: _Transcript) -> list[bytes]:
        proof = _decode(data, Proof, "proof")
        if not hmac.compare_digest(proof.proof, transcript.client_proof):
            raise HandshakeRefused(WRONG_SECRET, "wrong secret: the proof does not fit the challenge")
        remote = self._remote
        assert remote is not None
        if self._role == PEER:
            if remote.node_id == self._identity.node_id:
                raise HandshakeRefused(UNKNOWN_NODE, f"{remote.node_id!r} is the id of this node itself")
            if not self._allow_peer(remote.node_id):
                raise HandshakeRefused(UNKNOWN_NODE, f"{remote.node_id!r} is no member of this cluster")
        self._unfinished = transcript.session(remote, self._codec, _TO_SERVER, _TO_CLIENT, self._max_message_bytes)
        return []
