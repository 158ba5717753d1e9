"""The story itself: start, write, kill, elect, restart, catch up, compare."""

import math
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from demo_site.bank.commands import open_account
from demo_site.demo.compare import Comparison, compare
from demo_site.demo.ledger import Ledger
from demo_site.demo.story import Story
from demo_site.demo.tellers import Tellers
from demo_site.demo.writers import OPENING_BALANCE, Teller, Writers
from raftlog.runtime import clock
from raftlog.testing.processes import POLL_INTERVAL, NodeProcess, ProcessCluster, ProcessTimeout, leader_of

KILL_AT = 0.35  # of all writes acknowledged: the nodes are killed
RESTART_AT = 0.65  # … and started again
ACCOUNTS = 10  # that commands transfer between; everybody writes to them
PAYMENTS = 0.1  # of all writes are payments by the ORM; the others are commands
SAVINGS = 20  # that payments go between
START_TIMEOUT = 60.0  # seconds for the nodes to start, or to catch up
WRITE_TIMEOUT = 120.0  # seconds without any progress


@dataclass
class Result:
    """The demo's answer; the keys of --json."""

    ok: bool = False
    nodes: int = 0
    killed: int = 0
    acknowledged: int = 0
    transactions: int = 0  # of the acknowledged: payments by plain ORM code; the others are commands
    lost: int = 0
    doubled: int = 0
    databases_equal: bool = False
    failover_ms: float | None = None  # from the kill until another node says that it leads
    write_gap_ms: float | None = None  # longest time without an acknowledged write around the kill
    catch_up_ms: float | None = None  # from starting the processes until all that was committed then is applied
    unknown: int = 0  # neither acknowledged nor refused
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Scenario:
    """Runs in one thread, besides the writers'. `cluster` must not be started; `prepare` gets a node with tables."""

    def __init__(
        self,
        cluster: ProcessCluster,
        story: Story,
        *,
        commands: int,
        kill: int,
        prepare: Callable[[NodeProcess], object] = lambda node: None,
    ) -> None:
        self.cluster = cluster
        self.story = story
        self.kill_count = kill
        self.prepare = prepare
        self.ledger = Ledger(commands, math.ceil(commands * PAYMENTS))
        self.down: set[str] = set()
        self.result = Result(nodes=len(cluster), killed=kill)

    def run(self) -> Result:
        self._start()
        with (
            Writers(self.cluster, self.ledger, accounts=ACCOUNTS) as writers,
            Tellers(self.cluster, self.ledger, self._open_savings()) as tellers,
        ):
            self.story.say(f"{len(writers)} writers transfer money by commands, through all nodes")
            self.story.say(f"{len(tellers)} processes, one on each host, make payments by plain ORM transactions")
            if self.kill_count:
                self._wait_for_writes(KILL_AT)
                killed_at = self._kill()
                self._wait_for_writes(RESTART_AT)
                now = clock.monotonic()
                self.result.write_gap_ms = _ms(self.ledger.longest_gap(killed_at, now))
                self.story.say(f"writes stood still for {self.result.write_gap_ms} ms", "bold")
                self._restart()
            self._wait_for_writes(1.0)
            self.result.transactions = tellers.paid_count
        self._compare()
        return self.result

    # The chapters

    def _start(self) -> None:
        self.story.say(f"starting {len(self.cluster)} nodes, each with a database and a log of its own")
        self.cluster.start()
        self._wait_until(lambda statuses: leader_of(statuses) is not None, START_TIMEOUT, "a first leader")
        leader = self.cluster.wait_for_leader(START_TIMEOUT)
        self.story.say(f"{leader} was elected, in term {self._term(leader)}", "bold green")
        self.story.say("manage.py migrate, on one node for all of them")
        self.cluster.migrate()
        self.prepare(self.cluster[leader])

    def _open_savings(self) -> list[int]:
        teller = Teller([node.client() for node in self.cluster], 0)
        names = [f"savings {number}" for number in range(1, SAVINGS + 1)]
        return [teller.propose(open_account, name=name, balance=OPENING_BALANCE) for name in names]

    def _kill(self) -> float:
        """Kill the leader, and followers besides it; returns when. Ends once another node leads."""
        leader = self.cluster.wait_for_leader(START_TIMEOUT)
        term = self._term(leader)
        followers = [node.node_id for node in self.cluster if node.node_id != leader]
        others = secrets.SystemRandom().sample(followers, self.kill_count - 1)
        names = ", ".join([f"{leader} (the leader)", *sorted(others)])
        self.down = {leader, *others}
        killed_at = clock.monotonic()
        self.cluster.kill(self.down)
        self.story.say(
            f"kill -9 {names}, with {self.ledger.acknowledged_count} writes acknowledged and writers at work",
            "bold red",
        )

        def elected(statuses: dict[str, Any]) -> bool:
            name = leader_of(statuses, self.down)
            return name is not None and statuses[name]["current_term"] > term

        self._wait_until(elected, START_TIMEOUT, "another leader")
        self.result.failover_ms = _ms(clock.monotonic() - killed_at)
        new_leader = self.cluster.wait_for_leader(START_TIMEOUT, other_than=sorted(self.down))
        self.story.say(
            f"{new_leader} was elected, in term {self._term(new_leader)}, {self.result.failover_ms} ms after the kill",
            "bold green",
        )
        return killed_at

    def _restart(self) -> None:
        restarted, self.down = self.down, set()
        leader = self.cluster[self.cluster.wait_for_leader(START_TIMEOUT)]
        status = leader.status()
        committed = int(status["commit_index"]) if status else 0
        started_at = clock.monotonic()
        for node_id in sorted(restarted):
            self.cluster[node_id].start()
        names = ", ".join(sorted(restarted))
        self.story.say(f"starting {names} again; {committed} entries are committed")

        def caught_up(statuses: dict[str, Any]) -> bool:
            found = [statuses[node_id] for node_id in restarted]
            return all(status is not None and status["last_applied"] >= committed for status in found)

        self._wait_until(caught_up, START_TIMEOUT, f"{names} catching up")
        self.result.catch_up_ms = _ms(clock.monotonic() - started_at)
        self.story.say(f"{names} caught up, {self.result.catch_up_ms} ms after the start of the process", "bold green")

    def _compare(self) -> None:
        index = self.cluster.wait_all_applied(START_TIMEOUT)
        self.story.say(f"all nodes have applied index {index}; comparing {len(self.cluster)} databases")
        databases = {node.node_id: node.database for node in self.cluster}
        found: Comparison = compare(databases, self.ledger.acknowledged, self.ledger.refused)
        result = self.result
        result.acknowledged = self.ledger.acknowledged_count
        result.unknown = len(self.ledger.unknown)
        result.lost, result.doubled = len(found.lost), len(found.doubled)
        result.databases_equal = found.databases_equal
        result.problems = list(found.problems())
        if result.unknown:
            result.problems += [f"{result.unknown} writes got no answer", *self.ledger.errors]
        if not result.acknowledged - result.transactions or not result.transactions:
            result.problems.append("no command, or no transaction, was acknowledged")
        result.ok = found.ok and not result.problems

    # Waiting

    def _wait_for_writes(self, share: float) -> None:
        """Until that share of all commands has been answered. Raises ProcessTimeout where nothing moves any more."""
        moved_at, last = clock.monotonic(), -1
        while (answered := self.ledger.answered_count) < share * self.ledger.total:
            if answered != last:
                moved_at, last = clock.monotonic(), answered
            statuses = self._look()
            if clock.monotonic() - moved_at > WRITE_TIMEOUT:
                raise ProcessTimeout(f"no write was answered for {WRITE_TIMEOUT} s\n{self.cluster.describe(statuses)}")
            clock.sleep(0.1)

    def _wait_until(self, reached: Callable[[dict[str, Any]], bool], timeout: float, what: str) -> None:
        deadline = clock.monotonic() + timeout
        while not reached(statuses := self._look()):
            if clock.monotonic() > deadline:
                raise ProcessTimeout(f"{what}: not within {timeout} s\n{self.cluster.describe(statuses)}")
            clock.sleep(POLL_INTERVAL)

    def _look(self) -> dict[str, Any]:
        self.cluster.refuse_dead()
        statuses = self.cluster.statuses()
        self.story.show(statuses, self.down, self.ledger.acknowledged_count)
        return statuses

    def _term(self, node_id: str) -> int:
        status = self.cluster[node_id].status()
        return int(status["current_term"]) if status else 0


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
