"""What one frame costs the event loop: an echo through a raw consumer, with Daphne's own protocol and with ours.

`python -m benchmarks.frames [--seconds N] [--json]`. Turns are taken, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

from raftlog.runtime import clock
from raftlog.testing.bench.floor import connected
from raftlog.testing.processes import free_ports

MESSAGE = b"x" * 256
ROUNDS = 3
SERVER = """
import daphne.server, sys
from raftlog.transport.server import DaphneServer
from raftlog.transport import websocket_protocol
if sys.argv[2] == "daphne":
    websocket_protocol.use_direct_protocol = lambda factory: None

async def application(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event["bytes"]})

DaphneServer(application, "127.0.0.1", int(sys.argv[1])).run()
"""


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(protocol: str, seconds: float) -> tuple[float, float]:
    """(median seconds of a round trip, CPU seconds of the server for one)."""
    [port] = free_ports(1)
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port), protocol])
    try:
        with connected(port) as connection:
            taken: list[float] = []
            used = cpu_seconds(server.pid)
            end = clock.monotonic() + seconds
            while (began := clock.monotonic()) < end:
                connection.send(MESSAGE)
                connection.recv()
                taken.append(clock.monotonic() - began)
            return statistics.median(taken), (cpu_seconds(server.pid) - used) / len(taken)
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for one measurement; there are six (default 2)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {"daphne": [], "raftlog": []}
    for _ in range(ROUNDS):
        for protocol, values in measured.items():
            values.append(measure(protocol, options.seconds))
    figures = {
        protocol: {
            "round_trip_us": round(statistics.median(trip for trip, _ in values) * 1e6, 1),
            "server_cpu_us": round(statistics.median(used for _, used in values) * 1e6, 1),
        }
        for protocol, values in measured.items()
    }
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for protocol, figure in figures.items():
        trip, used = figure["round_trip_us"], figure["server_cpu_us"]
        sys.stdout.write(f"{protocol:8} round trip {trip:6.1f} µs, CPU of the server {used:6.1f} µs\n")


if __name__ == "__main__":
    main()
