"""Nodes of a simulated cluster as scheduled jobs see them: a log, databases, clocks, and who thinks it leads.

Time is virtual. Proposals arrive late, twice, or never; nodes apply the log at their own pace; leaders are elected,
and an old one goes on for a while. Worse than Raft: it would recognise the second copy of a proposal.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import heapq
import random
from collections.abc import Callable, Iterator
from typing import Any

import django.db
from django.db import connections, transaction

from raftlog.exceptions import NotProposed, OutcomeUnknown
from raftlog.replication.context import CommandContext

START = datetime.datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=datetime.UTC)
TICK = 0.5  # seconds between two looks of a ticker
TIMEOUT = 5.0  # of a proposal


class SimulatedNode:
    """`skew`: seconds by which its clock is ahead. `applied`: how many entries of the log its database has."""

    def __init__(self, name: str, skew: float) -> None:
        self.name = name
        self.alias = f"simulated-{name}"
        self.skew = skew
        self.applied = 0
        self.leads_until = -1.0
        self.is_busy = False

    def leads(self, now: float) -> bool:
        return now < self.leads_until


class World:
    """One run. `tick(node id, now, goes_on)` is the ticker's; `models` are the tables; `fired` what came through."""

    def __init__(self, rng: random.Random, models: list[Any], count: int, tick: Callable[..., float]) -> None:
        self.rng = rng
        self.now = 0.0
        self.nodes = [SimulatedNode(chr(ord("a") + n), rng.uniform(-2, 2)) for n in range(count)]
        self.models = models
        self.elections = self.proposals = self.copies = 0
        self.results: list[Any] = []  # of the entries, as the first node that applied them had it
        self.problems: list[str] = []
        self._tick = tick
        self._log: list[tuple[Any, dict[str, Any], int]] = []
        self._log_time = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._current = self.nodes[0]

    # Virtual time

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, event))

    def run(self, until: Callable[[], bool]) -> None:
        while not until() and self._events:
            time, _, event = heapq.heappop(self._events)
            self.now = max(self.now, time)
            event()

    def moment(self, skew: float = 0.0) -> datetime.datetime:
        return START + datetime.timedelta(seconds=self.now + skew)

    # What happens

    def start(self) -> None:
        self.at(0.0, self._elect)
        for node in self.nodes:
            self.at(self.rng.uniform(0, TICK), functools.partial(self._look, node))

    def _elect(self) -> None:
        """A new leader, after a while; the old one may believe in itself for some seconds more."""
        self.elections += 1
        stay = self.rng.choice([0.3, 2.0, 10.0, 40.0]) * self.rng.uniform(0.5, 1.5)
        overlap = self.rng.choice([0.0, 0.0, 1.0, 8.0]) * self.rng.random()
        without = self.rng.choice([0.0, 0.5, 3.0, 3.0, 60.0]) * self.rng.random()
        self.rng.choice(self.nodes).leads_until = self.now + stay + overlap
        self.at(self.now + stay + without, self._elect)

    def _look(self, node: SimulatedNode) -> None:
        self.at(self.now + TICK * self.rng.uniform(0.5, 1.5), lambda: self._look(node))
        if node.is_busy or not node.leads(self.now):
            return
        node.is_busy = True
        try:
            with self._on(node):
                self._tick(node.name, self.moment(node.skew), lambda: node.leads(self.now))
        except (NotProposed, OutcomeUnknown):
            pass  # as the ticker's thread does: it looks again
        finally:
            node.is_busy = False

    def propose(self, command: Any, arguments: dict[str, Any]) -> Any:
        """Called by a ticker; others go on while it waits. Raises NotProposed, OutcomeUnknown."""
        self.proposals += 1
        if self.rng.random() < 0.05:
            raise NotProposed("no leader, as this run has it")
        node, places = self._current, []
        copies = self.rng.choices([0, 1, 2, 3], [5, 75, 15, 5])[0]
        for _ in range(copies):
            self.copies += 1
            delay = self.rng.choice([0.01, 0.01, 0.01, 0.5, 4.0, 90.0]) * self.rng.uniform(0.5, 1.5)
            self.at(self.now + delay, lambda: places.append(self._append(command, arguments)))
        deadline = self.now + TIMEOUT
        self.at(deadline, lambda: None)
        self.run(lambda: self.now >= deadline or (bool(places) and node.applied > places[0]))
        if not places or node.applied <= places[0]:
            raise OutcomeUnknown("no answer in virtual time", "0:1")
        return self.results[places[0]]

    def _append(self, command: Any, arguments: dict[str, Any]) -> int:
        """Into the log, with the time of whoever leads; nodes apply it when they come to it."""
        leading = [node for node in self.nodes if node.leads(self.now)] or self.nodes
        wall = self.moment(self.rng.choice(leading).skew)
        self._log_time = max(self._log_time, int(wall.timestamp() * 1e6))
        self._log.append((command, arguments, self._log_time))
        upto = len(self._log)
        for node in self.nodes:
            lag = self.rng.choice([0.0, 0.01, 0.2, 3.0]) * self.rng.random()
            self.at(self.now + lag, functools.partial(self._apply, node, upto))
        return len(self._log) - 1

    def _apply(self, node: SimulatedNode, upto: int) -> None:
        with self._on(node):
            while node.applied < upto:
                command, arguments, log_time = self._log[node.applied]
                index = node.applied + 1
                ctx = CommandContext(index=index, term=1, log_time=log_time, command=command.name)
                try:
                    with transaction.atomic(using=node.alias):
                        result = command.function(ctx, **arguments)
                except django.db.IntegrityError as error:
                    result = f"IntegrityError: {error}"
                if len(self.results) < index:
                    self.results.append(result)
                elif self.results[index - 1] != result:
                    self.problems.append(f"entry {index} gave {self.results[index - 1]} and, on {node.name}, {result}")
                node.applied = index

    def settle(self) -> None:
        for node in self.nodes:
            self._apply(node, len(self._log))

    def entries(self) -> Iterator[tuple[Any, dict[str, Any], Any]]:
        """(command, arguments, result) of the log."""
        for (command, arguments, _), result in zip(self._log, self.results, strict=True):
            yield command, arguments, result

    # Databases

    @contextlib.contextmanager
    def _on(self, node: SimulatedNode) -> Iterator[None]:
        before, self._current = self._current, node
        try:
            yield
        finally:
            self._current = before

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self._current.alias

    db_for_write = db_for_read

    @contextlib.contextmanager
    def databases(self) -> Iterator[None]:
        """One in memory for each node; the models' tables are looked for in that of the node that acts."""
        router: Any = django.db.router
        routers_before = router.routers
        template = dict(next(iter(connections.databases.values())))
        template |= {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {}}
        try:
            for node in self.nodes:
                connections.databases[node.alias] = dict(template)
                with connections[node.alias].schema_editor() as editor:
                    for model in self.models:
                        editor.create_model(model)
            router.routers = [self]
            yield
        finally:
            router.routers = routers_before
            for node in self.nodes:
                connections[node.alias].close()
                del connections[node.alias]
                del connections.databases[node.alias]

    def rows(self, node: SimulatedNode, model: Any) -> list[Any]:
        with self._on(node):
            return list(model.objects.order_by("pk").values_list())
