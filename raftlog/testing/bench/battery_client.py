"""One application process of `raft bench --batteries`: `python -m raftlog.testing.bench.battery_client`.

With a Work as JSON on its stdin, see together.py. It does one action over and over, in threads, with the environment
of a node of the cluster, as a web worker of that host would.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from raftlog.testing.bench.client import run_blocking


class Work(msgspec.Struct):
    """`action`: "module:function"; called with `arguments` once for each thread, it returns what the thread repeats.

    What is repeated returns how often it did the thing that is counted (1, mostly).
    """

    action: str
    seconds: float
    threads: int = 1
    arguments: dict[str, Any] = {}


def make_actions(work: Work) -> list[Callable[[], int]]:
    module, _, function = work.action.partition(":")
    make = getattr(importlib.import_module(module), function)
    return [make(**work.arguments) for _ in range(work.threads)]


def main() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=Work)
    import django

    django.setup()

    def on_ready() -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()

    measured = run_blocking(make_actions(work), work.seconds, on_ready)
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")
    sys.stdout.flush()
    os._exit(0)  # what is left are daemons and sockets: nothing to wait for


if __name__ == "__main__":
    main()
