"""The same puts on every system, in turns in one run; and etcd's own check of itself.

Each repeat starts the systems one after the other, so that none runs beside another, and measures ours among them: a
ratio is made of two figures of the same repeat. docs/performance.md says how each system is run.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.cases import Row, Run, case, last_line, not_measured
from benchmarks.loops import LoadFailed, Measured, closed_loop, pipelined
from benchmarks.systems import Pipelines, System, Target, find
from benchmarks.systems.etcd import EtcdTarget
from benchmarks.systems.servers import ServerFailed

SIZE = 100  # bytes of a value
CLIENTS = (1, 16, 64)
NODES = 3
CHECK_SECONDS = 60  # how long `etcdctl check perf` takes
CHECK_CLIENTS = {"s": 50, "m": 200, "l": 500, "xl": 1000}

LOGS = ("raftlog", "etcd", "etcd-http", "nats", "nats-default", "pysyncobj", "pysyncobj-unbatched")
QUICK_LOGS = ("raftlog", "etcd", "nats", "pysyncobj")
DATABASES = ("raftlog, through the ORM", "stock", "rqlite")


@dataclasses.dataclass(frozen=True)
class Load:
    """One thing to measure on a system. `params` go into its row."""

    name: str
    params: dict[str, int]
    measure: Callable[[Target, float], Measured]
    has_latencies: bool = True

    @property
    def key(self) -> str:
        """Of its rows."""
        return self.name + str(self.params)


def blocking(clients: int) -> Load:
    return Load("put", {"clients": clients}, lambda target, seconds: closed_loop(target, clients, seconds, SIZE))


def outstanding(processes: int) -> Load:
    """Of as many processes as it takes for none of them to be the limit."""
    return Load(
        "put, pipelined",
        {"processes": processes},
        lambda target, seconds: pipelined(target, seconds, SIZE, workers=processes),
        has_latencies=False,
    )


class Table:
    """Figures of each repeat by system and row; a ratio of ours to theirs needs both of the same repeat."""

    def __init__(self, case_name: str, ours: str) -> None:
        self.case = case_name
        self.ours = ours
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._shares: dict[tuple[str, str, str], float] = {}
        # (system, load and its params) -> what failed when
        self._failures: dict[tuple[str, str], list[str]] = {}

    def add(self, repeat: int, row: Row, value: float, share: float = 0.0) -> None:
        """`share` is that of a core which the busiest process of the load generator took."""
        key = (row.system, row.name + str(row.params), row.unit)
        there = self._rows.setdefault(key, row)
        if row.note and row.note not in there.note:
            self._rows[key] = dataclasses.replace(there, note=f"{there.note}; {row.note}")
        self._values.setdefault(key, {})[repeat] = value
        self._shares[key] = max(share, self._shares.get(key, 0.0))

    def fail(self, system: str, load: Load, why: str) -> None:
        """`why` begins with the repeat."""
        self._failures.setdefault((system, load.key), []).append(why)

    def never_measured(self, systems: Sequence[str], loads: Sequence[Load]) -> Iterator[Row]:
        """A row for each load that failed on a system whenever it was tried."""
        for system, load in ((system, load) for system in systems for load in loads):
            failures = self._failures.get((system, load.key))
            if failures and (system, load.key, "per second") not in self._rows:
                why = f"failed in {'; in '.join(failures)}"
                yield not_measured(self.case, load.name, system, "per second", why, dict(load.params))

    def rows(self) -> Iterator[Row]:
        """Each figure, and under those of a peer that ours has too, the ratios."""
        for key, row in self._rows.items():
            theirs = self._values[key]
            share = self._shares[key]
            told = f"load generator's busiest process: {share:.0%} of a core" if share else ""
            failed = self._failures.get(key[:2], []) if row.unit == "per second" else []
            note = "; ".join(filter(None, [row.note, told, *(f"failed in {each}" for each in failed)]))
            yield dataclasses.replace(row, values=list(theirs.values()), note=note)
            ours = self._values.get((self.ours, *key[1:]), {})
            pairs = [ours[repeat] / value for repeat, value in theirs.items() if repeat in ours and value]
            if row.system != self.ours and row.unit.endswith("per second") and pairs:
                yield dataclasses.replace(
                    row, name=f"{row.name}: {self.ours} over it", unit="×", values=pairs, note="of the same repeat"
                )


def side_by_side(
    run: Run, table: Table, names: Sequence[str], loads: Sequence[Load], systems: Mapping[str, System]
) -> Iterator[Row]:
    """Measure every load on every system, repeat by repeat. What cannot be measured here gets a row that says why."""
    missing = {name: why for name in names if (why := systems[name].missing())}
    for name, why in missing.items():
        yield not_measured(table.case, "put", name, "per second", why)
    for repeat in range(run.repeats):
        for name in names:
            if name not in missing:
                twice(
                    loads,
                    lambda some, again, repeat=repeat, name=name: _try(
                        run, table, repeat, systems[name], some, again=again
                    ),
                )
    yield from table.rows()
    yield from table.never_measured(names, loads)


Failures = list[tuple[Load, str]]  # what failed, and why


def twice(loads: Sequence[Load], attempt: Callable[[Sequence[Load], bool], Failures]) -> None:
    """Attempt them, and what failed once more: a load that fails takes no other with it. `attempt` is told "again"."""
    if failed := attempt(loads, False):
        attempt([load for load, _ in failed], True)


def _try(run: Run, table: Table, repeat: int, system: System, loads: Sequence[Load], *, again: bool) -> Failures:
    """Start the system, and measure on it what it can do; the table is told what failed."""
    failed: Failures = []
    waiting = list(loads)
    folder = run.folder / f"{repeat}-{system.name.replace(' ', '-')}{'-again' if again else ''}"
    try:
        with system.start(folder, NODES) as target:
            waiting = [load for load in loads if load.has_latencies or isinstance(target, Pipelines)]
            while waiting:
                load = waiting[0]
                run.note(f"{system.name}: {load.name} {load.params}, repeat {repeat + 1}{', again' if again else ''}")
                try:
                    _measure(run, table, repeat, system, target, load)
                except LoadFailed as error:
                    failed.append((load, last_line(error)))
                waiting.pop(0)
    except Exception as error:  # noqa: BLE001 - whatever a peer's servers do, the other systems are measured
        failed += [(load, last_line(error)) for load in waiting]
    for load, why in failed:
        run.note(f"{system.name}: {load.name} {load.params} failed: {why}")
        table.fail(system.name, load, f"repeat {repeat + 1}{', again' if again else ''}: {why}")
    return failed


def _measure(run: Run, table: Table, repeat: int, system: System, target: Target, load: Load) -> None:
    before = children_cpu()
    measured = load.measure(target, run.seconds)
    after = children_cpu()
    if not measured.count:
        raise LoadFailed(measured.trouble or "nothing was acknowledged")
    note = "; ".join(filter(None, [system.durability, measured.trouble]))
    row = Row(table.case, load.name, system.name, dict(load.params), "per second", [], note=note)
    table.add(repeat, row, measured.per_second, measured.generator_share)
    if load.has_latencies and measured.latencies.count:
        for name, share in (("median", 0.5), ("99th percentile", 0.99)):
            one = dataclasses.replace(row, name=f"{load.name}: {name}", unit="ms", note="")
            table.add(repeat, one, measured.ms(share))
    servers = sum(after[pid] - before[pid] for pid in after if pid in before)
    if servers and measured.count:
        one = dataclasses.replace(row, name=f"{load.name}: CPU of all servers", unit="CPU ms", note="for each put")
        table.add(repeat, one, 1000 * servers / measured.count)


def children_cpu() -> dict[int, float]:
    """Process id of each child of this process -> seconds of CPU time it has used so far (proc(5)).

    Servers are children that live all through a measurement; the processes of the load generator do not.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError:  # it ended since
                continue
            found[pid] = (int(fields[11]) + int(fields[12])) / ticks
    return found


@case(
    "beside",
    "the same puts of 100 bytes on ours and on its peers, three processes each, in turns",
    seconds=480,
    quick_seconds=32,
    plot=[("clients", "per second"), ("clients", "ms")],
)
def beside(run: Run) -> Iterator[Row]:
    if run.quick:
        names, loads = QUICK_LOGS, [blocking(64), outstanding(1)]
    else:
        names, loads = LOGS, [*map(blocking, CLIENTS), outstanding(1), outstanding(2)]
    yield from side_by_side(run, Table("beside", "raftlog"), names, loads, find())


@case(
    "beside databases",
    "a row put by a transaction of its own: ours through the ORM, Django's own SQLite backend, rqlite",
    seconds=140,
    quick_seconds=16,
    plot=[("clients", "per second"), ("clients", "ms")],
)
def beside_databases(run: Run) -> Iterator[Row]:
    loads = [blocking(16)] if run.quick else list(map(blocking, CLIENTS))
    table = Table("beside databases", DATABASES[0])
    yield from side_by_side(run, table, DATABASES, loads, find())


@case(
    "etcd check perf",
    "etcd as its own tool loads it (etcdctl check perf, in Go): what our clients in Python may have kept from it",
    seconds=75,
    quick_seconds=75,
    by_default=False,
)
def etcd_check(run: Run) -> Iterator[Row]:
    load = "xl"  # as fast as it is answered, up to 15,000 a second; the smaller ones offer less than etcd takes
    name, params = "put", {"clients": CHECK_CLIENTS[load]}
    etcd = find()["etcd"]
    why = etcd.missing() or ("" if shutil.which("etcdctl") else "etcdctl is not installed")
    if why:
        yield not_measured("etcd check perf", name, "etcd", "per second", why, params)
        return
    try:
        with etcd.start(run.folder, NODES) as target:
            assert isinstance(target, EtcdTarget)
            run.note(f"etcdctl check perf --load={load}: {CHECK_SECONDS} s")
            found = throughput(check_perf(target, load))
    except (subprocess.TimeoutExpired, ServerFailed, ValueError) as error:
        yield not_measured("etcd check perf", name, "etcd", "per second", last_line(error), params)
        return
    note = f"etcdctl check perf --load={load}; {etcd.durability}"
    yield Row("etcd check perf", name, "etcd", params, "per second", [found], note=note)


def check_perf(target: EtcdTarget, load: str) -> str:
    """What it printed; it exits with 1 where etcd did less than it wants. Raises subprocess.TimeoutExpired."""
    done = subprocess.run(
        ["etcdctl", "check", "perf", f"--load={load}", f"--endpoints={','.join(target.addresses)}"],
        env={**os.environ, "ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=3 * CHECK_SECONDS,
        check=False,
    )
    return done.stdout + done.stderr


def throughput(said: str) -> float:
    """The writes a second of "PASS: Throughput is 150 writes/s" and its like. Raises ValueError with what it said."""
    found = re.search(r"[Tt]hroughput[^\d]*(\d+) writes/s", said)
    if found is None:
        raise ValueError(f"etcdctl check perf named no throughput: {said[-300:]}")
    return float(found[1])
