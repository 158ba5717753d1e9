"""The handshake: who may talk to whom, and what everyone else is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.exceptions import HandshakeRefused
from raftlog.transport import handshake as module
from raftlog.transport.close_codes import (
    BAD_FRAME,
    BAD_TAG,
    FRAME_TOO_LARGE,
    UNKNOWN_NODE,
    WRONG_CLUSTER,
    WRONG_NODE,
    WRONG_SECRET,
    WRONG_VENDOR,
    WRONG_VERSION,
)
from raftlog.transport.frames import PEER_CODEC
from raftlog.transport.handshake import (
    CLIENT,
    MAX_HANDSHAKE_BYTES,
    PEER,
    ClientHandshake,
    Identity,
    ServerHandshake,
    Session,
)
from tests.transport.conftest import identity, vote

OLD, NEW = b"the old secret key", b"the new secret key"


def shake(client: ClientHandshake[Any], server: ServerHandshake[Any]) -> tuple[Session[Any], Session[Any]]:
    to_server = [client.hello()]
    while to_server:
        to_client = [answer for data in to_server for answer in server.receive(data)]
        to_server = [answer for data in to_client for answer in client.receive(data)]
    assert client.session is not None
    assert server.session is not None
    return client.session, server.session


def sides(a: Identity, b: Identity, **options: Any) -> tuple[ClientHandshake[Any], ServerHandshake[Any]]:
    return (
        ClientHandshake(a, options.get("role", PEER), PEER_CODEC, recipient=options.get("recipient", "b")),
        ServerHandshake(b, PEER, PEER_CODEC, allow_peer=options.get("allow_peer", lambda node_id: True)),
    )


def test_both_sides_learn_who_the_other_is_and_can_talk() -> None:
    """Node id, incarnation, cluster id, commands and vendor arrive, and frames pass both ways."""
    a = identity("a", incarnation="i1", cluster_id=lambda: "id", commands={"buy": [1]}, vendor="sqlite", address="x")
    client, server = shake(*sides(a, identity("b", incarnation="i2", vendor="sqlite")))
    assert (server.remote.node_id, server.remote.incarnation, server.remote.cluster_id) == ("a", "i1", "id")
    assert (server.remote.commands, server.remote.vendor, server.remote.address) == ({"buy": [1]}, "sqlite", "x")
    assert (client.remote.node_id, client.remote.incarnation, client.remote.vendor) == ("b", "i2", "sqlite")
    for writer, reader in ((client.writer, server.reader), (server.writer, client.reader)):
        assert reader.messages(bytes(next(writer.frames([vote(1)])))) == [vote(1)]


def test_many_commands_are_no_matter() -> None:
    """What a node can apply travels once it is authenticated, so it is not bound to the handshake's size."""
    commands = {f"a_command_with_a_long_name_{number}": [1, 2, 3] for number in range(5000)}
    _, server = shake(*sides(identity("a", commands=commands), identity("b")))
    assert server.remote.commands == commands


@pytest.mark.parametrize(
    ("client_keys", "server_keys"),
    [([OLD], [OLD, NEW]), ([OLD, NEW], [NEW]), ([NEW, OLD], [OLD]), ([OLD, NEW], [NEW, OLD])],
)
def test_one_common_secret_is_enough(client_keys: list[bytes], server_keys: list[bytes]) -> None:
    """Keys rotate node by node."""
    shake(*sides(identity("a", secret_keys=client_keys), identity("b", secret_keys=server_keys)))


@pytest.mark.parametrize(("ours", "theirs"), [("", ""), ("", "x"), ("x", ""), ("x", "x")])
def test_an_unformed_side_may_connect(ours: str, theirs: str) -> None:
    """Before the cluster is formed its id is not known to all."""
    shake(*sides(identity("a", cluster_id=lambda: ours), identity("b", cluster_id=lambda: theirs)))


@pytest.mark.parametrize(
    ("a", "b", "options", "code", "text"),
    [
        ({"secret_keys": [OLD]}, {"secret_keys": [NEW]}, {}, WRONG_SECRET, "wrong secret"),
        ({"cluster": "x"}, {}, {}, WRONG_CLUSTER, "cluster is 'x', here it is 'c'"),
        ({"cluster_id": lambda: "1"}, {"cluster_id": lambda: "2"}, {}, WRONG_CLUSTER, "cluster id is '1', here"),
        ({}, {}, {"recipient": "z"}, WRONG_NODE, "this address belongs to 'b', not 'z'"),
        ({"node_id": "b"}, {}, {}, UNKNOWN_NODE, "the id of this node itself"),
        ({}, {}, {"allow_peer": lambda node_id: node_id != "a"}, UNKNOWN_NODE, "'a' is no member"),
        ({}, {}, {"role": CLIENT}, BAD_FRAME, "role is 'client'"),
    ],
)
def test_who_does_not_belong_is_told_why(
    a: dict[str, Any], b: dict[str, Any], options: dict[str, Any], code: int, text: str
) -> None:
    """Each refusal has a code and a reason."""
    with pytest.raises(HandshakeRefused) as caught:
        shake(*sides(identity(**{"node_id": "a", **a}), identity(**{"node_id": "b", **b}), **options))
    assert caught.value.code == code
    assert text in caught.value.reason


def test_a_newer_version_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranges must overlap."""
    monkeypatch.setattr(module, "MIN_VERSION", 2)
    monkeypatch.setattr(module, "MAX_VERSION", 3)
    client, _ = sides(identity("a"), identity("b"))
    monkeypatch.undo()
    _, server = sides(identity("a"), identity("b"))
    with pytest.raises(HandshakeRefused, match="version 2 to 3 offered, here 1 to 1") as caught:
        server.receive(client.hello())
    assert caught.value.code == WRONG_VERSION


@pytest.mark.parametrize(("ours", "theirs"), [((1, 3), (2, 5)), ((2, 5), (1, 3)), ((3, 3), (1, 9))])
def test_both_speak_the_highest_version_that_both_know(
    monkeypatch: pytest.MonkeyPatch, ours: tuple[int, int], theirs: tuple[int, int]
) -> None:
    """An upgraded node and one that is not yet find a version in common."""

    def speak(versions: tuple[int, int]) -> None:
        monkeypatch.setattr(module, "MIN_VERSION", versions[0])
        monkeypatch.setattr(module, "MAX_VERSION", versions[1])

    speak(ours)
    client, _ = sides(identity("a"), identity("b"))
    speak(theirs)
    _, server = sides(identity("a"), identity("b"))
    (challenge,) = server.receive(client.hello())
    speak(ours)
    proof, about = client.receive(challenge)
    speak(theirs)
    server.receive(proof)
    server.receive(about)
    assert server.session is not None
    assert server.session.remote.version == 3


def test_membership_is_told_to_members_only() -> None:
    """Whoever cannot prove a secret does not hear whether a node is known."""
    asked: list[str] = []
    _, server = sides(identity("a"), identity("b"), allow_peer=lambda node_id: bool(asked.append(node_id)))
    client, _ = sides(identity("a"), identity("b"))
    server.receive(client.hello())
    with pytest.raises(HandshakeRefused) as caught:
        server.receive(msgspec.msgpack.encode(module.Proof(b"?" * 32)))
    assert (caught.value.code, asked) == (WRONG_SECRET, [])


def test_a_server_without_the_secret_is_noticed() -> None:
    """Authentication is mutual: a server that only plays back does not pass."""
    client, server = sides(identity("a"), identity("b"))
    (data,) = server.receive(client.hello())
    challenge = msgspec.msgpack.decode(data, type=module.Challenge)
    false = msgspec.msgpack.encode(module.Challenge(challenge.hello, b"?" * 32))
    with pytest.raises(HandshakeRefused, match="could not prove") as caught:
        client.receive(false)
    assert caught.value.code == WRONG_SECRET


def test_an_earlier_challenge_is_of_no_use() -> None:
    """Nonces of both sides are under the proof: nothing of another handshake fits."""
    client, server = sides(identity("a"), identity("b"))
    (recorded,) = server.receive(client.hello())
    proof, _ = client.receive(recorded)
    again, other = sides(identity("a"), identity("b"))
    other.receive(again.hello())
    with pytest.raises(HandshakeRefused, match="not offered"):
        again.receive(recorded)
    with pytest.raises(HandshakeRefused, match="does not fit"):
        other.receive(proof)


@given(st.data())
def test_garbage_at_any_step_is_refused(data: st.DataObject) -> None:
    """Whatever arrives instead of the expected message, the answer is a refusal with a code."""
    client, server = sides(identity("a"), identity("b"))
    steps: list[tuple[Any, bytes]] = [(server, client.hello())]
    (challenge,) = server.receive(client.hello())
    proof, about = client.receive(challenge)
    garbage = data.draw(st.one_of(st.binary(max_size=80), st.sampled_from([challenge, proof, client.hello(), about])))
    step = data.draw(st.integers(0, 2))
    client, server = sides(identity("a"), identity("b"))
    side: Any = server
    if step >= 1:
        (challenge,) = server.receive(client.hello())
        side = client
    if step >= 2:
        server.receive(client.receive(challenge)[0])
        side = server
    del steps
    if step == 0 and garbage[:15] == client.hello()[:15]:
        return  # another client's hello is a hello
    with pytest.raises(HandshakeRefused) as caught:
        side.receive(garbage)
    assert caught.value.code in (BAD_FRAME, BAD_TAG, WRONG_SECRET)


def test_nothing_large_is_read_before_the_proof() -> None:
    """8 KiB is the most that a stranger can have decoded."""
    _, server = sides(identity("a"), identity("b"))
    with pytest.raises(HandshakeRefused, match="MAX_HANDSHAKE_BYTES 8192") as caught:
        server.receive(b"\x91" * (MAX_HANDSHAKE_BYTES + 1))
    assert caught.value.code == FRAME_TOO_LARGE


@pytest.mark.parametrize("keys", [[], [b"short"]])
def test_a_weak_secret_is_an_error_of_the_settings(keys: list[bytes]) -> None:
    """It is found before anything connects."""
    with pytest.raises(ValueError, match="secret"):
        identity("a", secret_keys=keys)


def test_a_node_with_a_database_of_another_vendor_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HandshakeRefused, match="'a' is 'sqlite', here it is 'postgresql'") as caught:
        shake(*sides(identity("a", vendor="sqlite"), identity("b", vendor="postgresql")))
    assert caught.value.code == WRONG_VENDOR
    shake(*sides(identity("a", vendor="sqlite"), identity("b", vendor="sqlite")))
    about_frame = module._about_frame

    def about_another(side: Identity, writer: Any) -> bytes:
        return about_frame(replace(side, vendor="postgresql") if side.node_id == "b" else side, writer)

    monkeypatch.setattr(module, "_about_frame", about_another)
    with pytest.raises(HandshakeRefused, match="'b' is 'postgresql', here it is 'sqlite'"):
        shake(*sides(identity("a", vendor="sqlite"), identity("b", vendor="sqlite")))
