"""Where the time of a put goes, stage by stage, with the floor of each; and which threads its CPU time goes to.

    python -m benchmarks.profile [--seconds N] [--clients N,…] [--orm] [--flame DIR] [--markdown | --json]

Three node processes with fsync on, log only, and application processes on the leader's host. CPU and switches of
context are taken from nodes that nothing else looks at; the stages then from nodes that stamp every hand-over, and the
medians of both runs stand beside each other. --orm follows `create()` of 1 and of 16 writers as well. --flame writes
flame graphs of the leader and of a follower, where py-spy is installed and may look.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.nodes import SETTINGS, TIMEOUT, started
from benchmarks.part_floors import part_floors
from benchmarks.put_stages import BESIDE, STAGES, WHOLE, Entry, follow, taken
from benchmarks.report import figure, machine_words
from benchmarks.threads import Used, by_name, of_process, since, whole
from raftlog.runtime import clock
from raftlog.testing.bench import transactions
from raftlog.testing.bench.client import Load
from raftlog.testing.bench.put_client import Followed, Put
from raftlog.testing.bench.put_trace import Stamp, read_stamps, wanted
from raftlog.testing.bench.stages import read_trace
from raftlog.testing.bench.together import run_together, shares
from raftlog.testing.processes import NodeProcess, ProcessCluster

CLIENT = "raftlog.testing.bench.put_client"
CLIENTS_IN_A_PROCESS = 16
CLIENTS = (1, 16, 64)
FLAME_CLIENTS = 16
SAMPLES_A_SECOND = 200
SHOWN_SHARE = 0.01  # threads that take less of their process's CPU are added up as "other"
WAIT_FOR_STAMPS = 60.0  # seconds
TRACE = "RAFTLOG_BENCH_PUTS"

WIDTH = 150  # columns of a table that nobody's terminal limits


@dataclasses.dataclass
class Shown:
    """A table. The first column is text, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclasses.dataclass
class Window:
    """What `clients` did in one measurement. `used`: process -> group of threads -> what it used."""

    clients: int
    puts: list[Put]
    per_second: float
    used: dict[str, dict[str, Used]]
    client: Used

    @property
    def median_ms(self) -> float:
        return 1000 * statistics.median(put.woken - put.asked for put in self.puts)


def main() -> int:
    options = parsed(sys.argv[1:])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    with tempfile.TemporaryDirectory(prefix="raftlog-profile-") as name:
        folder = Path(name)
        machine = describe(folder)
        tell("floors: sync, round trip, hand-over, encode, decode")
        floors = part_floors(folder, min(options.seconds, 1.0))
        plain = undisturbed(folder / "plain", options)
        stamped = with_stamps(folder / "stamped", options)
        tables = [stages_table(plain, stamped, floors), *(cpu_table(window) for window in plain)]
        if options.orm:
            tables += orm_tables(folder / "orm", options.seconds)
    machine.load_after = round(os.getloadavg()[0], 2)
    if options.json:
        print(json.dumps({"machine": dataclasses.asdict(machine)} | as_dict(plain, stamped, floors, tables)))
    elif options.markdown:
        print("\n\n".join([machine_words(machine), *(markdown(table) for table in tables)]))
    else:
        show(tables, machine_words(machine))
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement (default: 3)")
    parser.add_argument(
        "--clients",
        type=lambda text: [int(n) for n in text.split(",")],
        default=list(CLIENTS),
        help="how many, with commas between them (default: 1,16,64)",
    )
    parser.add_argument("--orm", action="store_true", help="follow create() too")
    parser.add_argument("--flame", type=Path, metavar="DIR", help="write flame graphs into this folder")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--markdown", action="store_true", help="tables of Markdown")
    how.add_argument("--json", action="store_true", help="one JSON object on the last line of stdout")
    return parser.parse_args(arguments)


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Measuring


def undisturbed(folder: Path, options: argparse.Namespace) -> list[Window]:
    """Nodes that nobody looks into, but for py-spy at the end."""
    with started(folder, PROPOSAL_TIMEOUT=20) as cluster:
        leader = cluster[cluster.wait_for_leader(TIMEOUT)]
        windows = []
        for clients in options.clients:
            tell(f"{clients} clients: CPU by thread")
            windows.append(measured(cluster, leader, clients, options.seconds))
        if options.flame:
            flame(cluster, leader, options.flame, max(options.seconds, 5.0))
    return windows


def with_stamps(folder: Path, options: argparse.Namespace) -> list[tuple[Window, list[Entry]]]:
    """Nodes that stamp each hand-over."""
    trace = folder / "stamps"
    settings = {"CLUSTER": "bench", "STATE_MACHINE": "log", "PROPOSAL_TIMEOUT": 20}
    found = []
    with ProcessCluster(
        3, folder, settings_module=SETTINGS, options=settings, environment={TRACE: str(trace)}
    ) as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(TIMEOUT)]
        for clients in options.clients:
            tell(f"{clients} clients: stages")
            window = measured(cluster, leader, clients, options.seconds)
            stamps = {node.node_id: collect(trace.with_suffix(f".{node.node_id}")) for node in cluster}
            others = {name: each for name, each in stamps.items() if name != leader.node_id}
            found.append((window, follow(window.puts, stamps[leader.node_id], others)))
    return found


def collect(path: Path) -> list[Stamp]:
    """Raises TimeoutError: the node that stamps does not write them down."""
    sign = wanted(path)
    sign.touch()
    deadline = clock.monotonic() + WAIT_FOR_STAMPS
    while sign.exists():
        if clock.monotonic() > deadline:
            raise TimeoutError(f"{path.name}: no stamps for {WAIT_FOR_STAMPS:g} s")
        clock.sleep(0.05)
    return read_stamps(path)


def measured(cluster: ProcessCluster, leader: NodeProcess, clients: int, seconds: float) -> Window:
    environment = {name: value for name, value in leader.environment.items() if name != TRACE}
    processes = -(-clients // CLIENTS_IN_A_PROCESS)
    jobs = [(environment, Load("blocking", seconds, threads)) for threads in shares(clients, processes)]
    before: dict[str, dict[int, Used]] = {}

    def on_ready() -> None:
        cluster.wait_all_applied(TIMEOUT)  # what the clients did to warm up
        before.update({node.node_id: of_process(node.pid or 0) for node in cluster})

    found = run_together(CLIENT, jobs, Followed, on_ready)
    after = {node.node_id: of_process(node.pid or 0) for node in cluster}
    used = {name: by_name(since(before[name], each), thread_names(cluster[name])) for name, each in after.items()}
    followers = [threads for name, threads in used.items() if name != leader.node_id]
    puts = [put for one in found for put in one.puts]
    client = Used(sum(one.cpu for one in found), 0.0, sum(one.switches for one in found), 0)
    per_second = sum(one.measured.count / one.measured.seconds for one in found)
    sides = {"leader": used[leader.node_id], "each follower": mean_of(followers)}
    return Window(clients, puts, per_second, sides, client)


def thread_names(node: NodeProcess) -> dict[int, str]:
    return {each["native_id"]: each["name"] for each in node.client().request("threads") if each["native_id"]}


def mean_of(each: list[dict[str, Used]]) -> dict[str, Used]:
    found = {}
    for name in {name: None for threads in each for name in threads}:
        both = whole(threads[name] for threads in each if name in threads)
        count = len(each)
        found[name] = Used(both.cpu / count, both.waited / count, both.slept // count, both.pushed // count)
    return found


def flame(cluster: ProcessCluster, leader: NodeProcess, folder: Path, seconds: float) -> None:
    """Of the leader and one follower, while FLAME_CLIENTS put."""
    program = shutil.which("py-spy")
    if program is None:
        tell("no flame graphs: py-spy is not installed (pip install raftlog[bench])")
        return
    folder.mkdir(parents=True, exist_ok=True)
    follower = next(node for node in cluster if node is not leader)
    recording = []
    for name, node in (("leader", leader), ("follower", follower)):
        path = folder / f"{name}.svg"
        command = [program, "record", "--threads", "-r", str(SAMPLES_A_SECOND), "-d", str(round(seconds))]
        recording.append(
            (
                path,
                subprocess.Popen(
                    [*command, "-o", str(path), "-p", str(node.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                ),
            )
        )
    measured(cluster, leader, FLAME_CLIENTS, seconds + 2)
    for path, recorder in recording:
        _, said = recorder.communicate()
        why = said.decode(errors="replace").strip().splitlines()
        tell(f"{path}" if recorder.returncode == 0 else f"{path.name} was not written: {why[-1] if why else '?'}")


# Tables


def stages_table(plain: list[Window], stamped: list[tuple[Window, list[Entry]]], floors: dict[str, float]) -> Shown:
    columns = ["stage, ms", "floor"]
    rows = [[stage.text, figure(floors.get(stage.floor)) if stage.floor else ""] for stage in (*STAGES, WHOLE)]
    rows += [[f"beside it: {stage.text}", figure(floors.get(stage.floor)) if stage.floor else ""] for stage in BESIDE]
    rows += [["puts followed, of those made", ""], ["median, stamped", ""], ["median, nobody looking", ""]]
    rows.append(["puts per second, nobody looking", ""])
    for before, (window, entries) in zip(plain, stamped, strict=True):
        columns.append(counted(window.clients, "client"))
        cells = [f"{taken(entries, stage).mean:.3f}" if entries else "–" for stage in (*STAGES, WHOLE, *BESIDE)]
        cells += [f"{len(entries) / len(window.puts):.0%}", f"{window.median_ms:.3f}", f"{before.median_ms:.3f}"]
        cells.append(figure(before.per_second))
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return Shown("Stages of a put, means", columns, rows)


def cpu_table(window: Window) -> Shown:
    columns = ["thread", "CPU, µs a put", "waited for a core, µs", "switches of context"]
    rows = []
    for process, threads in window.used.items():
        rows.append(used_row(f"**{process}**", whole(threads.values()), window))
        least = SHOWN_SHARE * whole(threads.values()).cpu
        rows += [used_row(name, used, window) for name, used in threads.items() if used.cpu >= least]
    client = used_row("**application**", window.client, window)
    client[2] = "–"
    rows.append(client)
    return Shown(f"CPU of a put, {counted(window.clients, 'client')}", columns, rows)


def used_row(name: str, used: Used, window: Window) -> list[str]:
    count = len(window.puts)
    return [name, f"{1e6 * used.cpu / count:.0f}", f"{1e6 * used.waited / count:.0f}", f"{used.switches / count:.2f}"]


def orm_tables(folder: Path, seconds: float) -> Iterable[Shown]:
    """`create()` of one writer stage by stage, and CPU with 1 and 16, as `raft bench --transactions` takes them."""
    folder.mkdir()
    trace = folder / "trace"
    options = {"CLUSTER": "bench", "PROPOSAL_TIMEOUT": 120}
    environment = {"RAFTLOG_BENCH_TRACE": str(trace)}
    with ProcessCluster(3, folder, settings_module=SETTINGS, options=options, environment=environment) as cluster:
        cluster.start()
        leader = cluster[cluster.wait_for_leader(TIMEOUT)]
        leader.manage("migrate", "--run-syncdb", "--verbosity=0")
        tell("create(), one writer: stages")
        one = transactions.run_raft(cluster, leader, transactions.Plan("create()", "create", 1), seconds, traced=True)
        batches = read_trace(trace.with_suffix(f".{leader.node_id}"), one.start, one.end)
        found = transactions.stages(one, batches)
        yield Shown(
            "Stages of a create(), 1 writer, means", ["stage", "ms"], [[k, f"{v:.3f}"] for k, v in found.items()]
        )
        rows = []
        for writers in (1, 16):
            tell(f"create(), {writers} writers: CPU")
            window = transactions.run_raft(cluster, leader, transactions.Plan("create()", "create", writers), seconds)
            cpu = transactions.cpu_by_process(window, leader)
            per_second = sum(each.measured.count / each.measured.seconds for each in window.worked)
            rows.append([counted(writers, "writer"), *(f"{value:.2f}" for value in cpu.values()), figure(per_second)])
        yield Shown("CPU of a create(), ms", ["", *cpu, "per second"], rows)


def markdown(table: Shown) -> str:
    head = [f"**{table.title}**", "", "| " + " | ".join(table.columns) + " |"]
    head.append("| --- |" + " --: |" * (len(table.columns) - 1))
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in table.rows)])


def show(tables: Iterable[Shown], machine: str) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for each in tables:
        table = Table(title=each.title, title_justify="left", box=None, pad_edge=False)
        for number, column in enumerate(each.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in each.rows:
            table.add_row(*(cell.strip("*") for cell in row))
        console.print(table, "")
    console.print(machine, highlight=False)


def as_dict(
    plain: list[Window],
    stamped: list[tuple[Window, list[Entry]]],
    floors: dict[str, float],
    tables: Iterable[Shown],
) -> dict[str, Any]:
    return {
        "floors_ms": floors,
        "clients": {
            window.clients: {
                "per_second": round(window.per_second, 1),
                "median_ms": round(window.median_ms, 4),
                "median_ms_stamped": round(seen.median_ms, 4),
                "followed": len(entries),
                "stages_ms": {
                    stage.text: {"mean": taken(entries, stage).mean, "median": taken(entries, stage).median}
                    for stage in (*STAGES, WHOLE, *BESIDE)
                    if entries
                },
            }
            for window, (seen, entries) in zip(plain, stamped, strict=True)
        },
        "tables": [dataclasses.asdict(table) for table in tables],
    }


if __name__ == "__main__":
    sys.exit(main())
