"""Client processes of a benchmark, all working at the same time.

Each is `python -m MODULE` with a job as JSON on its stdin. It prints "ready" once connected, waits for a line,
works, and prints what it measured as JSON.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from raftlog.exceptions import RaftlogError

Result = TypeVar("Result")


def shares(whole: int, parts: int) -> list[int]:
    """`whole` dealt out as evenly as it goes; nobody gets nothing."""
    return [n for n in (whole // parts + (part < whole % parts) for part in range(parts)) if n]


def run_together(
    module: str,
    jobs: Sequence[tuple[Mapping[str, str], msgspec.Struct]],
    result: type[Result],
    on_ready: Callable[[], None] = lambda: None,
) -> list[Result]:
    """One process for each (environment, job); `on_ready` is called before they all begin.

    Raises RaftlogError where one does not start or does not finish.
    """
    clients = [_start(module, environment, job) for environment, job in jobs]
    try:
        for client in clients:
            if _read(client) != "ready":
                raise RaftlogError(f"a client of the benchmark did not start (exit code {client.wait()})")
        on_ready()
        for client in clients:
            _write(client, "go")
        return [msgspec.json.decode(_read(client), type=result) for client in clients]
    except (msgspec.DecodeError, OSError) as error:
        raise RaftlogError("a client of the benchmark failed; what it said stands above") from error
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def _start(module: str, environment: Mapping[str, str], job: msgspec.Struct) -> subprocess.Popen[str]:
    client = subprocess.Popen(
        [sys.executable, "-m", module], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _write(client, msgspec.json.encode(job).decode())
    return client


def _write(client: subprocess.Popen[str], line: str) -> None:
    assert client.stdin is not None
    client.stdin.write(line + "\n")
    client.stdin.flush()


def _read(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().strip()
