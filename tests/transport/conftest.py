"""Echo nodes in processes of their own: a Twisted reactor runs once in a process."""

from __future__ import annotations

import datetime
import ipaddress
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raftlog.consensus.entries import COMMAND, client_payload
from raftlog.consensus.messages import RequestVote
from raftlog.runtime.ports import PeerMessage
from raftlog.transport.handshake import Identity
from raftlog.transport.peer_channel import WebSocketPeerChannel

SECRET = b"secret key of tests"
WAIT = 10.0  # seconds within which anything expected has to happen


class EchoNode:
    """One process of echo_node.py."""

    def __init__(self, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.transport.echo_node", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the echo node ended with {self.process.wait()}"
        self.port: int = json.loads(line)["port"]
        self.unix_socket: str = options.get("unix_socket", "")

    def address(self, scheme: str = "ws") -> str:
        return f"unix:{self.unix_socket}" if scheme == "unix" else f"{scheme}://127.0.0.1:{self.port}"

    def stop(self) -> str:
        """What it still printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        rest = self.process.stdout.read()
        self.process.wait(WAIT)
        self.process.stdout.close()
        return rest


@pytest.fixture(scope="session")
def echo_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoNode]:
    node = EchoNode(unix_socket=str(tmp_path_factory.mktemp("echo") / "node.sock"))
    yield node
    assert node.stop() == "ended\n"


@pytest.fixture
def start_echo_node() -> Iterator[Callable[..., EchoNode]]:
    nodes: list[EchoNode] = []

    def start(**options: Any) -> EchoNode:
        nodes.append(EchoNode(**options))
        return nodes[-1]

    yield start
    for node in nodes:
        if node.process.poll() is None:
            node.stop()


class Answers:
    """Collects what a channel hands on."""

    def __init__(self) -> None:
        self.messages: list[PeerMessage] = []
        self.closed: list[str] = []
        self._condition = threading.Condition()

    def on_message(self, messages: Sequence[PeerMessage]) -> None:
        with self._condition:
            self.messages += messages
            self._condition.notify_all()

    def on_close(self, reason: str) -> None:
        with self._condition:
            self.closed.append(reason)
            self._condition.notify_all()

    def wait(self, enough: Callable[[], bool]) -> None:
        with self._condition:
            assert self._condition.wait_for(enough, WAIT), (self.messages[-3:], self.closed)


def identity(node_id: str = "a", **options: Any) -> Identity:
    return Identity(node_id, options.pop("cluster", "c"), options.pop("secret_keys", [SECRET]), **options)


def channel_to(address: str, answers: Answers, who: Identity | None = None, **options: Any) -> WebSocketPeerChannel:
    return WebSocketPeerChannel(
        options.pop("peer_id", "b"), lambda: address, who or identity(), answers.on_message, answers.on_close, **options
    )


def vote(term: int, last_log_index: int = 0, sender: str = "a", recipient: str = "b") -> RequestVote:
    return RequestVote(term, sender, recipient, last_log_index, 0, False, False, "", "")


def proposal(sequence: int, body: bytes = b"x") -> bytes:
    return client_payload(COMMAND, b"s" * 16, sequence, 1, body)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """PEM files of a CA, a server at 127.0.0.1 and a client."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    files: dict[str, str] = {}

    def key_usage(*, signs: bool) -> x509.KeyUsage:
        return x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)

    def make(name: str, issuer: x509.Name | None, signer: Any) -> tuple[x509.Name, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        # Python 3.13 verifies strictly (RFC 5280): key identifiers, and what a CA's key is for.
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        issuing_key = (signer or key).public_key()
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key), critical=False
        ).add_extension(key_usage(signs=issuer is None), critical=True)
        certificate = builder.sign(signer or key, hashes.SHA256())
        for kind, data in (
            ("certificate", certificate.public_bytes(serialization.Encoding.PEM)),
            (
                "key",
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
            ),
        ):
            path = folder / f"{name}-{kind}.pem"
            path.write_bytes(data)
            files[f"{name}_{kind}"] = str(path)
        return subject, key

    ca, ca_key = make("ca", None, None)
    make("server", ca, ca_key)
    make("client", ca, ca_key)
    return files
