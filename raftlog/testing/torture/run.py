"""One torture run, from the first node's start to the verdict. Everything it starts ends with it."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster, leader_of, node_names
from raftlog.testing.torture import verify
from raftlog.testing.torture.clients import Clients
from raftlog.testing.torture.disks import Disks
from raftlog.testing.torture.nemesis import Nemesis
from raftlog.testing.torture.network import Network, make_network
from raftlog.testing.torture.records import Records
from raftlog.testing.torture.report import Report, unavailability
from raftlog.testing.torture.schedule import BY_NAME, Round, Schedule
from raftlog.testing.torture.workloads import Commands, Orm, Workload

SETTINGS = "raftlog.testing.torture_site.settings"
START_TIMEOUT = 120.0  # seconds, for the first leader
RECOVERY_TIMEOUT = 90.0  # seconds, from the end of all faults of a round to an acknowledged command
APPLY_TIMEOUT = 180.0  # seconds, at the end, until every node has applied everything
STOP_TIMEOUT = 30.0  # seconds, at the end, for the nodes to stop as asked
SHOWN = 10  # promises broken that clients saw themselves
POLL = 0.05  # seconds
POLL_RECORDS = 0.25  # seconds


@dataclass(frozen=True)
class Options:
    minutes: float
    seed: int
    nodes: int = 5
    network: str = "auto"
    clients: int = 4
    threads: int = 3
    kinds: tuple[str, ...] = tuple(BY_NAME)
    workload: str = "commands"  # or "orm"
    mutation: str = ""  # one of torture_site.mutations
    directory: Path | None = None  # None: a temporary one, kept only where something was violated
    election_timeout: float = 0.5
    segment_bytes: int = 1 << 20

    @property
    def command(self) -> str:
        parts = [
            f"python -m raftlog.testing.torture --minutes {self.minutes:g} --nodes {self.nodes} --seed {self.seed}"
        ]
        if self.network != "auto":
            parts.append(f"--network {self.network}")
        if (self.clients, self.threads) != (4, 3):
            parts.append(f"--clients {self.clients} --threads {self.threads}")
        if self.workload != "commands":
            parts.append(f"--workload {self.workload}")
        if self.mutation:
            parts.append(f"--mutation {self.mutation}")
        if self.kinds != tuple(BY_NAME):
            parts.append(f"--faults {','.join(self.kinds)}")
        return " ".join(parts)


Tell = Callable[[str], None]


def torture(options: Options, tell: Tell) -> Report:
    """`tell` gets a line about what goes on, several times a second. Raises RaftlogError where it cannot start."""
    directory = options.directory or Path(tempfile.mkdtemp(prefix="raftlog-torture-"))
    directory.mkdir(parents=True, exist_ok=True)
    keep = True
    try:
        network = make_network(options.network, node_names(options.nodes))
        try:
            report = _Run(options, directory.absolute(), network, tell).run()
        finally:
            network.close()
        keep = bool(report.violations)
    except (KeyboardInterrupt, SystemExit):
        keep = False
        raise
    finally:
        if keep or options.directory is not None:
            tell(f"databases, logs and records of the run: {directory}")
        else:
            shutil.rmtree(directory)
    if keep or options.directory is not None:
        report.directory = str(directory)
    return report


class _Run:
    def __init__(self, options: Options, directory: Path, network: Network, tell: Tell) -> None:
        self._options = options
        self._directory = directory
        self._network = network
        self._tell = tell
        self._workload: Workload = Orm(options.mutation) if options.workload == "orm" else Commands()
        names = node_names(options.nodes)
        disks = Disks(directory, names)
        self._cluster = ProcessCluster(
            options.nodes,
            directory,
            settings_module=SETTINGS,
            options={
                "CLUSTER": "torture",
                "MEMBERS": network.members,
                "ELECTION_TIMEOUT": options.election_timeout,
                "SEGMENT_BYTES": options.segment_bytes,
                **self._workload.options,
            },
            environment=self._workload.environment,
            node_options=network.node_options(),
        )
        for node in self._cluster:
            node.environment |= disks.environment(node.node_id)
        self._records = Records(directory / "clients")
        self._clients = Clients(
            self._cluster,
            self._records.directory,
            options.clients,
            options.threads,
            options.seed,
            orm=self._workload.orm,
        )
        self._nemesis = Nemesis(self._cluster, network, disks, self._clients, options.seed)
        self._report = Report(
            command=options.command,
            seed=options.seed,
            nodes=options.nodes,
            network=network.kind,
            workload=options.workload,
            minutes=options.minutes,
        )
        self._next_poll = 0.0
        self._round = 0

    def run(self) -> Report:
        try:
            self._start()
            started_at = clock.monotonic()
            try:
                self._rounds(started_at + self._options.minutes * 60)
            finally:
                self._heal()
            ended_at = clock.monotonic()
            self._finish()
            self._judge(started_at, ended_at)
            self._stop()
        finally:
            self._clients.close()
            self._cluster.close()
        return self._report

    def _start(self) -> None:
        self._tell("making databases")
        self._workload.before_start(self._cluster)
        for node in self._cluster:
            node.command = [*self._network.command_prefix(node.node_id), *node.command]
        self._tell(f"starting {self._options.nodes} nodes")
        self._cluster.start()
        statuses = self._cluster.wait_for(
            lambda found: leader_of(found) is not None or len(self._cluster.running) < len(self._cluster),
            START_TIMEOUT,
            "a first leader",
        )
        if len(self._cluster.running) < len(self._cluster):
            raise RaftlogError(f"a node did not start:\n{self._cluster.describe(statuses)}")
        self._tell("preparing the workload")
        self._workload.after_start(self._cluster)
        self._clients.start()
        self._await_progress(clock.monotonic(), START_TIMEOUT)

    # Faults

    def _rounds(self, end: float) -> None:
        for round in Schedule(self._options.seed, self._options.nodes, self._options.kinds):
            if clock.monotonic() >= end:
                return
            self._report.rounds = self._round = round.number
            self._one_round(round)
            healed_at = clock.monotonic()
            if not self._await_progress(healed_at, RECOVERY_TIMEOUT):
                names = ", ".join(fault.kind for fault in round.faults)
                self._report.violations.append(
                    f"no command was acknowledged for {RECOVERY_TIMEOUT:g} s after the faults of round {round.number} "
                    f"({names}) had ended:\n{self._cluster.describe(self._cluster.statuses())}"
                )
                return
            self._report.recoveries.append(round_to_ms(self._first_acknowledged_after(healed_at) - healed_at))
            self._wait(clock.monotonic() + round.calm)

    def _one_round(self, round: Round) -> None:
        began = clock.monotonic()
        for fault in round.faults:
            self._wait(began + fault.starts)
            self._nemesis.strike(fault)
        while self._nemesis.active:
            self._proceed()
        self._nemesis.await_stops(self._proceed, lambda since: self._records.last_acknowledged() > since + 5.0)

    def _wait(self, until: float) -> None:
        while clock.monotonic() < until:
            self._proceed()

    def _proceed(self) -> None:
        """One step of waiting: heal what is over, read what clients wrote, say where things stand."""
        self._nemesis.tick()
        if clock.monotonic() >= self._next_poll:
            self._records.poll()
            self._next_poll = clock.monotonic() + POLL_RECORDS
            self._tell(self._progress())
        clock.sleep(POLL)

    def _progress(self) -> str:
        records = self._records
        faults = ", ".join(map(str, self._nemesis.active)) or "calm"
        violations = len(self._nemesis.found) + len(records.broken) + len(self._report.violations)
        return (
            f"round {self._round}: {len(records.acknowledged):,} commands, {records.reads:,} reads, "
            f"{records.unanswered} open or unknown, {violations} violations | {faults}"
        )

    def _await_progress(self, since: float, timeout: float) -> bool:
        while self._records.last_acknowledged() <= since:
            if clock.monotonic() >= since + timeout:
                return False
            self._proceed()
        return True

    def _first_acknowledged_after(self, moment: float) -> float:
        return min(at for at in reversed(self._records.acknowledged) if at > moment)

    # The end

    def _heal(self) -> None:
        self._nemesis.heal_all()
        self._nemesis.await_stops(self._proceed, lambda since: False)
        self._nemesis.tick()

    def _finish(self) -> None:
        report = self._report
        self._tell("waiting for the clients to finish their calls")
        report.violations += self._clients.stop()
        self._records.poll()
        self._tell("waiting until every node has applied everything")
        try:
            self._cluster.wait_all_applied(APPLY_TIMEOUT)
        except RaftlogError as error:
            report.violations.append(str(error))
        self._nemesis.tick()
        leader = [status for status in self._cluster.statuses().values() if status]
        report.last_term = max((status["current_term"] for status in leader), default=0)

    def _judge(self, started_at: float, ended_at: float) -> None:
        report, records, nemesis = self._report, self._records, self._nemesis
        databases = {node.node_id: node.database for node in self._cluster}
        self._tell("comparing the databases")
        differences, report.applied_index = verify.compare_databases(databases)
        report.databases_equal = not differences
        self._tell("checking the histories")
        report.without_effect, report.unknown, report.reads = records.ends["nothing"], records.unanswered, records.reads
        judged = self._workload.judge(report, records, databases, self._directory)
        seen = records.broken[:SHOWN]
        if len(records.broken) > SHOWN:
            seen.append(f"clients saw {len(records.broken) - SHOWN} more like these")
        report.violations += [*nemesis.found, *seen, *differences, *judged]
        report.minutes = round((ended_at - started_at) / 60, 2)
        report.client_processes = self._clients.started
        report.calls = len(records.calls)
        report.refused = records.ends["refused"]
        report.retried = sum(1 for call in records.calls if call.ended is not None and call.ended.attempts > 1)
        report.faults = dict(Counter(strike.kind for strike in nemesis.strikes))
        report.node_restarts = nemesis.restarts
        report.windows = unavailability(records.acknowledged, started_at, ended_at, nemesis.strikes)

    def _stop(self) -> None:
        """End the nodes as asked, and compare what they leave on disk."""
        self._tell("stopping the nodes and comparing their logs")
        violations = self._report.violations
        for node in self._cluster:
            node.send_signal(signal.SIGTERM)
        deadline = clock.monotonic() + STOP_TIMEOUT
        for node in self._cluster:
            code = node.wait(max(0.1, deadline - clock.monotonic()))
            if code != 0:
                violations.append(
                    f"node {node.node_id} ended with {code} (None: not at all) when it was asked to:\n{node.output(25)}"
                )
        self._cluster.close()
        folders = {node.node_id: node.settings.data_dir for node in self._cluster}
        differences, self._report.log_entries = verify.compare_logs(folders, self._report.applied_index)
        violations += differences


def round_to_ms(seconds: float) -> float:
    return round(seconds, 3)
