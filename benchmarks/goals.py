"""The goals of the design, and what the rows of this run say of each: "goal | reached | ratio | yes or no"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from benchmarks.cases import FLOOR, Row

ELECTION_TIMEOUT_MS = 500.0  # the default
NOT_MEASURED = "not measured in this run"


@dataclasses.dataclass(frozen=True)
class Judged:
    """One goal, in words. `is_reached` is None where this run has no figure for it."""

    text: str
    goal: str
    reached: str
    ratio: str  # reached over the bound
    is_reached: bool | None

    @property
    def verdict(self) -> str:
        return NOT_MEASURED if self.is_reached is None else "yes" if self.is_reached else "no"


class Rows:
    """The rows of a run, to be asked."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def median(
        self, case: str, name: str, system: str = "raftlog", *, unit: str = "", **params: object
    ) -> float | None:
        """Of the row whose params hold at least these (spaces in a name are "_" here); None where there is none."""
        wanted = {key.replace("_", " "): value for key, value in params.items()}
        for row in self._rows:
            same = (row.case, row.name, row.system) == (case, name, system) and unit in ("", row.unit)
            if same and row.values and wanted.items() <= row.params.items():
                return row.median
        return None


Found = Callable[[Rows], float | None]


def over(numerator: Found, denominator: Found) -> Found:
    """The one figure over the other; None where either is missing."""

    def found(rows: Rows) -> float | None:
        one, other = numerator(rows), denominator(rows)
        return None if one is None or not other else one / other

    return found


def of(case: str, name: str, system: str = "raftlog", *, unit: str = "", **params: object) -> Found:
    return lambda rows: rows.median(case, name, system, unit=unit, **params)


@dataclasses.dataclass(frozen=True)
class Goal:
    """`found` must be at least, or at most, `bound`."""

    text: str
    unit: str
    found: Found
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, rows: Rows) -> Judged:
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None
        goal = f"{'≥' if self.at_least is not None else '≤'} {amount(bound)} {self.unit}"
        value = self.found(rows)
        if value is None:
            return Judged(self.text, goal, "–", "", None)
        reached = value >= bound if self.at_least is not None else value <= bound
        return Judged(self.text, goal, f"{amount(value)} {self.unit}", f"{value / bound:.2f}", reached)


def amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def create(name: str, writers: int, system: str, unit: str) -> Found:
    return of("transactions", name, system, unit=unit, writers=writers)


STOCK = "stock SQLite"
ONE_CLIENT = of("latency", "put", quantile="p50")
MANY = of("clients", "put", unit="per second", clients=64)
LONGEST = over(create("create(): longest", 16, "raftlog", "ms"), create("create(): longest", 16, STOCK, "ms"))
GOALS = (
    Goal("one client, one command at a time, log only: median", "ms", ONE_CLIENT, at_most=1.0),
    Goal(
        "… over one consumer round trip and one fdatasync",
        "×",
        over(ONE_CLIENT, of("latency", "put", FLOOR, quantile="p50")),
        at_most=2.0,
    ),
    Goal("64 blocking clients, log only", "per second", MANY, at_least=12_000),
    Goal(
        "… over etcd side by side",
        "×",
        over(of("beside", "put", unit="per second", clients=64), of("beside", "put", "etcd", clients=64)),
        at_least=4.0,
    ),
    Goal("pipelined, log only", "per second", of("pipelined", "put", processes=1), at_least=100_000),
    Goal(
        "… over PySyncObj side by side",
        "×",
        over(of("beside", "put, pipelined"), of("beside", "put, pipelined", "pysyncobj")),
        at_least=5.0,
    ),
    Goal(
        "commands applied through the ORM on all three nodes, one row each",
        "per second",
        of("commands", "one row a command", clients=64),
        at_least=4_000,
    ),
    Goal("… with a bulk command", "rows per second", of("commands", "100 rows a command"), at_least=15_000),
    Goal(
        "write-set rows applied by a node that did not run the transaction",
        "rows per second",
        of("orm", "rows applied by a follower"),
        at_least=100_000,
    ),
    Goal(
        "ORM transactions of 16 writers over the stock SQLite backend with full sync",
        "×",
        over(create("create()", 16, "raftlog", "per second"), create("create()", 16, STOCK, "per second")),
        at_least=1.5,
    ),
    Goal("… their longest wait over the stock backend's", "×", LONGEST, at_most=0.1),
    Goal(
        "… of one writer over the stock backend",
        "×",
        over(create("create()", 1, "raftlog", "per second"), create("create()", 1, STOCK, "per second")),
        at_least=0.5,
    ),
    Goal(
        "reads through the backend over the stock backend's",
        "×",
        over(
            of("orm", "get() by key", unit="per second", writers=1),
            of("orm", "get() by key", STOCK, unit="per second", writers=1),
        ),
        at_least=0.95,
    ),
    Goal(
        "the leader's process killed: first acknowledged write after, median",
        "ms",
        of("failover", "first write after a kill", quantile="median"),
        at_most=300,
    ),
    Goal(
        "the leader's host silent: first acknowledged write after, median",
        "election timeouts",
        over(of("failover", "first write after silence", quantile="median"), lambda rows: ELECTION_TIMEOUT_MS),
        at_most=2.0,
    ),
    Goal("restart with 1,000,000 entries: to follower", "s", of("growth", "restart", entries=1_000_000), at_most=2.0),
    Goal("… resident memory", "MiB", of("growth", "resident after a restart", entries=1_000_000), at_most=143),
    Goal("an image of the database to a new node", "rows per second", of("snapshot", "rows"), at_least=100_000),
    Goal(
        "3 → 7 nodes: median of one client",
        "×",
        over(of("nodes", "one client: median", nodes=7), of("nodes", "one client: median", nodes=3)),
        at_most=1.5,
    ),
)


def judge(rows: Sequence[Row]) -> list[Judged]:
    """Every goal, in the order of the design; those that this run has no figure for say so."""
    asked = Rows(rows)
    return [goal.judge(asked) for goal in GOALS]
