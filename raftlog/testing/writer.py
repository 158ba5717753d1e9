"""A writer that writes one row after the other through one node, and remembers what came of it: the load of tests and
benchmarks that change a cluster of processes meanwhile (with raftlog.testing.bench_site)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from raftlog.exceptions import NotProposed
from raftlog.replication import codec
from raftlog.replication.client_session import BlockingAnswers, ClientSession
from raftlog.runtime import clock
from raftlog.runtime.ports import APPLIED, NOT_PROPOSED, Proposer

TIMEOUT = 30.0  # seconds that one write may take


class Writer(threading.Thread):
    """start(), name each `step`, stop(). `gaps` has the longest time without an acknowledged write in each step."""

    def __init__(self, proposer: Proposer, name: str = "writer", *, pause: float = 0.0) -> None:
        """`pause`: seconds between an answer and the next write."""
        super().__init__(name=name, daemon=True)
        self._pause = pause
        self.acknowledged: list[str] = []
        # Writes of which nothing was done, and those of which nobody knows.
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self.gaps: dict[str, float] = {}
        self.step = "before"
        self._session = ClientSession(proposer)
        self._ending = threading.Event()

    def run(self) -> None:
        self._session.open(TIMEOUT)
        number, last = 0, clock.monotonic()
        while not self._ending.is_set():
            value = f"{self.name} {number}"
            if self._write(value):
                self.acknowledged.append(value)
                now = clock.monotonic()
                self.gaps[self.step] = max(self.gaps.get(self.step, 0.0), now - last)
                clock.sleep(self._pause)
                last = clock.monotonic()
            number += 1

    def _write(self, value: str) -> bool:
        answers = BlockingAnswers(1)
        body = codec.encode_command("bench.write_row", 1, {"value": value})
        try:
            self._session.submit([body], answers, TIMEOUT)
        except NotProposed:
            self.refused.append(value)
            clock.sleep(0.05)  # the node is down, say: no busy loop
            return False
        answers.wait(TIMEOUT + 1)
        outcome = answers.outcomes[0]
        if outcome is not None and outcome.status == APPLIED:
            return True
        is_refused = outcome is not None and outcome.status == NOT_PROPOSED
        (self.refused if is_refused else self.unknown).append(value)
        return False

    def stop(self) -> None:
        self._ending.set()
        self.join(TIMEOUT + 5)

    def check(self, databases: Iterable[Path]) -> None:
        """Nothing that was acknowledged is lost or there twice, and nothing is there that was refused, in any of them.

        Raises AssertionError.
        """
        acknowledged, possible = set(self.acknowledged), {*self.acknowledged, *self.unknown}
        for database in databases:
            found = [value for value in rows(database) if value.startswith(f"{self.name} ")]
            if len(found) != len(set(found)):
                raise AssertionError(f"{database}: something was applied twice")
            if lost := acknowledged - set(found):
                raise AssertionError(f"{database}: {len(lost)} acknowledged writes are lost, {sorted(lost)[0]} for one")
            if strange := set(found) - possible:
                raise AssertionError(f"{database}: {sorted(strange)[0]} was refused, and is there")

    def shown(self) -> str:
        gaps = ", ".join(f"{step} {gap * 1000:.0f} ms" for step, gap in self.gaps.items())
        failed = f"{len(self.refused)} refused, {len(self.unknown)} unknown"
        return f"{len(self.acknowledged)} writes ({failed}); longest gap: {gaps}"


def rows(database: Path) -> list[str]:
    """The values of all rows that the writer wrote, in order."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as raw:
        return sorted(value for (value,) in raw.execute("SELECT value FROM bench_row"))
