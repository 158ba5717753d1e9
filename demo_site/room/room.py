"""The room behind the page: the nodes, the wires between them, the writers, and what they all show."""

import random
import sqlite3
import threading
from collections import deque
from pathlib import Path
from typing import Any

from demo_site.bank.commands import NotEnoughMoney, open_account, transfer
from demo_site.demo.writers import OPENING_BALANCE, Teller
from raftlog.exceptions import CommandFailed, RaftlogError
from raftlog.observing.view import health
from raftlog.runtime import clock
from raftlog.testing.processes import ProcessCluster, free_ports, node_names
from raftlog.testing.torture.proxy import ProxyNetwork

ACCOUNTS = [f"account {number}" for number in range(1, 7)]
WRITERS = 3
PAUSE = 0.03  # seconds between two writes of a writer
LOOK_INTERVAL = 0.1  # seconds
BANK_INTERVAL = 0.5  # seconds between two looks at a node's rows
KEPT_EVENTS = 200
ACTIONS = ("kill", "pause", "cut", "back")


class Room:
    """Made, started and acted on in the main thread, whose end would end the nodes; the rest runs in threads."""

    def __init__(self, count: int, directory: Path, command: tuple[str, ...], environment: dict[str, str]) -> None:
        names = node_names(count)
        ports = free_ports(2 * count)
        self.network = ProxyNetwork(names, ports)
        self.site_ports = dict(zip(names, ports[count:], strict=True))
        self.cluster = ProcessCluster(
            count,
            directory,
            command=command,
            options={"CLUSTER": "demo", "MEMBERS": self.network.members},
            node_options=self.network.node_options(),
            environment=environment,
        )
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._cut: set[str] = set()
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self._event_number = 0
        self._seen: dict[str, float] = {}  # node -> when its newest event that is known happened
        self._banks: dict[str, dict[str, Any]] = {}
        self._view: dict[str, Any] = {"nodes": [], "events": []}
        self._done: deque[float] = deque()  # moments of acknowledged writes, of the last seconds
        self.acknowledged = 0
        self._last_write_at = 0.0
        self.longest_gap = 0.0

    # The main thread

    def start(self) -> None:
        """Nodes, tables, accounts; then writers and lookers."""
        self.cluster.start()
        self.cluster.wait_for_leader(60)
        self.cluster.migrate()

    def open(self) -> None:
        teller = Teller([node.client() for node in self.cluster], 0)
        for name in ACCOUNTS:
            teller.propose(open_account, name=name, balance=OPENING_BALANCE)
        self._last_write_at = clock.monotonic()
        jobs = [(self._write, (number,)) for number in range(WRITERS)] + [(self._look, ()), (self._look_at_banks, ())]
        for job, arguments in jobs:
            thread = threading.Thread(target=job, args=arguments, daemon=True)
            self._threads.append(thread)
            thread.start()

    def act(self, action: str, node_id: str) -> str:
        """Do it; returns what was done. Raises ValueError for what makes no sense."""
        if action not in ACTIONS:
            raise ValueError(f"{action!r} is none of {', '.join(ACTIONS)}")
        if node_id not in self.cluster.nodes:
            raise ValueError(f"there is no node {node_id!r}")
        node = self.cluster[node_id]
        if action == "back":
            self._bring_back(node_id)
            words = f"{node_id} is brought back"
        elif not node.is_running:
            raise ValueError(f"{node_id} is not running")
        elif action == "kill":
            node.kill()
            words = f"kill -9 {node_id}"
        elif action == "pause":
            node.pause()
            words = f"{node_id} is stopped in its tracks (SIGSTOP)"
        else:
            self._cut.add(node_id)
            self._cut_wires()
            words = f"{node_id} is cut off from the others"
        self._tell({"kind": "act", "node_id": node_id, "text": words})
        return words

    def _bring_back(self, node_id: str) -> None:
        node = self.cluster[node_id]
        if node_id in self._cut:
            self._cut.discard(node_id)
            self._cut_wires()
        if node.is_paused:
            node.resume()
        if not node.is_running:
            node.start()

    def _cut_wires(self) -> None:
        others = set(self.cluster.nodes)
        pairs = {(a, b) for a in self._cut for b in others - {a}}
        self.network.cut(pairs | {(b, a) for a, b in pairs})

    def heal(self) -> int:
        """No more writes, and everything is brought back; returns the index that all have applied.

        Raises ProcessTimeout.
        """
        self._stop.set()
        for node_id in self.cluster.nodes:
            self._bring_back(node_id)
        self.cluster.wait_for_leader(60)
        for thread in self._threads:
            thread.join(60)  # a write that waited for a majority ends now
        return self.cluster.wait_all_applied(60)

    def close(self) -> None:
        self._stop.set()
        self.cluster.close()
        for thread in self._threads:
            thread.join(5)
        self.network.close()

    # Threads

    def view(self) -> dict[str, Any]:
        """What the page shows. Any thread."""
        with self._lock:
            return self._view

    def _write(self, number: int) -> None:
        teller = Teller([node.client() for node in self.cluster], number)
        choice = random.Random(number)
        count = 0
        while not self._stop.wait(PAUSE):
            source, target = choice.sample(ACCOUNTS, 2)
            count += 1
            arguments = {"source": source, "target": target, "amount": choice.randint(1, 5000)}
            try:
                teller.propose(transfer, reference=f"{number}-{count}", **arguments)
            except (NotEnoughMoney, CommandFailed):
                continue
            except RaftlogError as error:
                self._tell({"kind": "unknown", "node_id": "", "text": f"a write got no answer: {error}"})
                continue
            self._acknowledge()

    def _acknowledge(self) -> None:
        with self._lock:
            now = clock.monotonic()
            self.acknowledged += 1
            self.longest_gap = max(self.longest_gap, now - self._last_write_at)
            self._last_write_at = now
            self._done.append(now)

    def _tell(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._event_number += 1
            self._events.append({**event, "number": self._event_number})

    def _look(self) -> None:
        while not self._stop.wait(LOOK_INTERVAL):
            statuses = self.cluster.statuses()
            events = [event for node_id, status in statuses.items() if status for event in self._new_events(node_id)]
            for event in sorted(events, key=lambda event: event["at"]):
                self._tell(event)
            self._draw(statuses)

    def _new_events(self, node_id: str) -> list[dict[str, Any]]:
        try:
            events = self.cluster[node_id].client().request("elections", {"count": 30}, timeout=0.5)
        except RaftlogError:
            return []  # it went down just now
        seen = self._seen.get(node_id, 0.0)
        new = [{**event, "node_id": node_id} for event in events if event["at"] > seen]
        self._seen[node_id] = max([seen, *(event["at"] for event in new)])
        return new

    def _look_at_banks(self) -> None:
        while not self._stop.wait(BANK_INTERVAL):
            for node in self.cluster:
                if node.is_running and not node.is_paused:
                    bank = bank_of(node.database)
                    if bank is not None:
                        self._banks[node.node_id] = bank

    def _draw(self, statuses: dict[str, Any]) -> None:
        now = clock.monotonic()
        nodes = [self._node(node_id, status) for node_id, status in statuses.items()]
        leaders = [node for node in nodes if node["role"] == "leader" and node["state"] == "up"]
        leader = max(leaders, key=lambda node: int(node["term"]), default=None)
        up = sum(node["state"] == "up" for node in nodes)
        report = {"voters": len(nodes), "voters_up": up, "leader_id": leader and leader["node_id"]}
        with self._lock:
            while self._done and self._done[0] < now - 2:
                self._done.popleft()
            self._view = {
                "nodes": nodes,
                "leader_id": leader["node_id"] if leader else "",
                "health": health(report),
                "majority": up > len(nodes) // 2,
                "acknowledged": self.acknowledged,
                "per_second": round(len(self._done) / 2, 1),
                "standing": round(now - self._last_write_at, 2),
                "longest_gap_ms": round(self.longest_gap * 1000),
                "events": list(self._events)[-40:],
            }

    def _node(self, node_id: str, status: dict[str, Any] | None) -> dict[str, Any]:
        node = self.cluster[node_id]
        state = "cut" if node_id in self._cut else "up"
        if not node.is_running:
            state = "killed"
        elif node.is_paused:
            state = "paused"
        elif status is None:
            state = "starting"
        return {
            "node_id": node_id,
            "state": state,
            "role": status["role"] if status else "",
            "term": status["current_term"] if status else None,
            "applied": status["last_applied"] if status else None,
            "follows": status["leader_id"] if status else "",
            "bank": self._banks.get(node_id),
            "site": f"http://127.0.0.1:{self.site_ports[node_id]}/",
        }


def bank_of(path: Path) -> dict[str, Any] | None:
    """What a node's own database holds; None while it has no tables."""
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)
    except sqlite3.OperationalError:
        return None
    try:
        database.execute("BEGIN")  # so that all is of one moment
        accounts = database.execute("SELECT name, balance, paid_in FROM bank_account ORDER BY name").fetchall()
        (count,) = database.execute("SELECT count(*) FROM bank_transfer").fetchone()
    except sqlite3.OperationalError:
        return None
    finally:
        database.close()
    return {
        "accounts": [(name, balance) for name, balance, _ in accounts],
        "total": sum(balance for _, balance, _ in accounts),
        "paid_in": sum(paid_in for _, _, paid_in in accounts),  # visitors open accounts of their own too
        "transfers": count,
    }
