"""Daphne embedded: where it listens, what it refuses to do, how it ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftlog.exceptions import TransportError
from raftlog.transport.server import remove_stale_socket
from tests.transport.conftest import WAIT, Answers, EchoNode, channel_to


def failing(**options: Any) -> str:
    """The error with which an echo node ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.transport.echo_node", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.wait(WAIT) == 1
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == ""
        return process.stderr.read()


def test_a_port_in_use_is_an_error() -> None:
    """run() raises and says which address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in failing(port=port)


def test_a_file_in_the_way_of_the_socket_is_an_error(tmp_path: Path) -> None:
    """Only sockets are ever removed."""
    path = tmp_path / "node.sock"
    path.write_text("precious")
    assert "exists and is no socket" in failing(unix_socket=str(path))
    assert path.read_text() == "precious"


def test_the_socket_of_a_killed_node_is_replaced(start_echo_node: Callable[..., EchoNode], tmp_path: Path) -> None:
    """kill -9 leaves the file; the next node takes its place. A clean end removes it."""
    path = tmp_path / "node.sock"
    node = start_echo_node(unix_socket=str(path))
    node.process.kill()
    node.stop()
    assert path.exists()
    node = start_echo_node(unix_socket=str(path))
    channel = channel_to(node.address("unix"), Answers())
    channel.connect()
    assert node.stop() == "ended\n"
    channel.close()
    assert not path.exists()


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    """Another process's socket is not taken away from it."""
    path = str(tmp_path / "node.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(TransportError, match="another process listens"):
            remove_stale_socket(path)
    remove_stale_socket(path)
    assert not Path(path).exists()
    remove_stale_socket(path)


def test_importing_the_server_imports_no_reactor() -> None:
    """Every management command may import it; only run() needs Twisted."""
    program = "import sys, raftlog.transport.server; sys.exit('twisted' in sys.modules or 'daphne' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=WAIT).returncode == 0


def test_stop_before_run_does_nothing_else() -> None:
    """A signal that comes early still ends the process."""
    program = (
        "from raftlog.transport.server import DaphneServer\n"
        "server = DaphneServer(None, '127.0.0.1', 0)\n"
        "server.stop()\n"
        "server.run()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=WAIT).returncode == 0
