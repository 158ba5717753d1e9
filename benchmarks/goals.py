"""The goals of the design, and what the rows of this run say of each: "goal | reached | ratio | yes or no"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from benchmarks.cases import FLOOR, Row

NOT_MEASURED = "not measured in this run"
FLAT = 1.2  # how often as much a cost may be that is not to grow with the work
UNHARMED = 0.9  # how much is to be left of what one slow node of three is not to touch


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
        self._rows = {(row.system, *row.key): row for row in rows}

    def median(
        self, case: str, name: str, unit: str, system: str = "raftlog", params: dict[str, object] | None = None
    ) -> float | None:
        """Of the row that has exactly these params; None where there is none, or it was not measured."""
        row = self._rows.get((system, *Row(case, name, system, params or {}, unit, []).key))
        return row.median if row else None


Found = Callable[[Rows], float | None]


def over(numerator: Found, denominator: Found) -> Found:
    """The one figure over the other; None where either is missing."""

    def found(rows: Rows) -> float | None:
        one, other = numerator(rows), denominator(rows)
        return None if one is None or not other else one / other

    return found


def of(case: str, name: str, unit: str, system: str = "raftlog", **params: object) -> Found:
    return lambda rows: rows.median(case, name, unit, system, params)


def grown(case: str, name: str, unit: str, param: str, small: int, large: int) -> Found:
    """What it is with much over what it is with little."""
    return over(of(case, name, unit, **{param: large}), of(case, name, unit, **{param: small}))


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


def beside(name: str, system: str, **params: object) -> Found:
    return of("beside", name, "per second", system, **params)


def create(name: str, writers: int, unit: str, system: str = "raftlog") -> Found:
    return of("transactions", name, unit, system, writers=writers)


STOCK = "stock SQLite"
ONE_CLIENT = of("latency", "put", "ms", quantile="p50")
LONGEST = "create(): longest"
MILLION = 1_000_000
GOALS = (
    Goal("one client, one command at a time, log only: median", "ms", ONE_CLIENT, at_most=1.0),
    Goal(
        "… over one consumer round trip and one fdatasync",
        "×",
        over(ONE_CLIENT, of("latency", "put", "ms", FLOOR, quantile="p50")),
        at_most=2.0,
    ),
    Goal(
        "64 blocking clients, log only", "per second", of("clients", "put", "per second", clients=64), at_least=12_000
    ),
    Goal(
        "… over etcd side by side",
        "×",
        over(beside("put", "raftlog", clients=64), beside("put", "etcd", clients=64)),
        at_least=4.0,
    ),
    Goal(
        "pipelined, log only, from one process",
        "per second",
        of("pipelined", "put", "per second", processes=1),
        at_least=100_000,
    ),
    Goal(
        "… over PySyncObj side by side",
        "×",
        over(beside("put, pipelined", "raftlog", processes=1), beside("put, pipelined", "pysyncobj", processes=1)),
        at_least=5.0,
    ),
    Goal(
        "commands applied through the ORM on all three nodes, one row each",
        "per second",
        of("commands", "one row a command", "per second", clients=64),
        at_least=4_000,
    ),
    Goal(
        "… with a bulk command",
        "rows per second",
        of("commands", "100 rows a command", "rows per second", clients=8),
        at_least=15_000,
    ),
    Goal(
        "write-set rows applied by a node that did not run the transaction",
        "rows per second",
        of("orm", "rows applied by a follower", "rows per second"),
        at_least=100_000,
    ),
    Goal(
        "ORM transactions of 16 writers over the stock SQLite backend with full sync",
        "×",
        over(create("create()", 16, "per second"), create("create()", 16, "per second", STOCK)),
        at_least=1.5,
    ),
    Goal(
        "… their longest wait over the stock backend's",
        "×",
        over(create(LONGEST, 16, "ms"), create(LONGEST, 16, "ms", STOCK)),
        at_most=0.1,
    ),
    Goal(
        "… of one writer over the stock backend",
        "×",
        over(create("create()", 1, "per second"), create("create()", 1, "per second", STOCK)),
        at_least=0.5,
    ),
    Goal(
        "reads through the backend over the stock backend's",
        "×",
        over(
            of("orm", "get() by key", "per second", writers=1),
            of("orm", "get() by key", "per second", STOCK, writers=1),
        ),
        at_least=1.0,
    ),
    Goal(
        "the leader's process killed: first acknowledged write after, median",
        "ms",
        of("failover", "first write after a kill", "ms", quantile="median"),
        at_most=300,
    ),
    Goal(
        "the leader's host silent: first acknowledged write after, median",
        "election timeouts",
        of("failover", "first write after silence", "election timeouts"),
        at_most=2.0,
    ),
    Goal(
        "restart with 1,000,000 entries: to follower", "s", of("growth", "restart", "s", entries=MILLION), at_most=2.0
    ),
    Goal(
        "… resident memory",
        "MiB",
        of("growth", "resident after a restart", "MiB", entries=MILLION),
        at_most=143,
    ),
    Goal(
        "an image of the database to a new node",
        "rows per second",
        of("snapshot", "rows", "rows per second"),
        at_least=100_000,
    ),
    Goal(
        "3 → 5 nodes: median of one client", "×", grown("nodes", "one client: median", "ms", "nodes", 3, 5), at_most=1.5
    ),
    Goal(
        "3 → 7 nodes: median of one client", "×", grown("nodes", "one client: median", "ms", "nodes", 3, 7), at_most=1.5
    ),
    Goal(
        "… CPU time of each node for a put",
        "×",
        grown("nodes", "one client: CPU of a node for a put", "CPU ms", "nodes", 3, 7),
        at_most=1.5,
    ),
    # What costs as the work grows; the design names no figures for these.
    Goal(
        "10⁴ → 10⁶ entries in the log: median of one client",
        "×",
        grown("growth", "one client: p50", "ms", "entries", 10_000, MILLION),
        at_most=FLAT,
    ),
    Goal(
        "10⁴ → 10⁶ rows in the database: create(), median",
        "×",
        grown("rows", "create(): median", "ms", "rows", 10_000, MILLION),
        at_most=FLAT,
    ),
    Goal(
        "… of it, until it is committed, mean",
        "×",
        grown("rows", "create(), until committed: mean", "ms", "rows", 10_000, MILLION),
        at_most=FLAT,
    ),
    Goal(
        "… get() by key, median",
        "×",
        grown("rows", "get() by key: median", "ms", "rows", 10_000, MILLION),
        at_most=FLAT,
    ),
    Goal(
        "a follower with a slow disk: puts a second of 16 clients over those beside a healthy one",
        "×",
        of("slow follower", "16 clients, slow disk: over healthy", "×"),
        at_least=UNHARMED,
    ),
    Goal(
        "… median of one client over that beside a healthy one",
        "×",
        of("slow follower", "one client, slow disk: over healthy", "×"),
        at_most=1 / UNHARMED,
    ),
    Goal(
        "a follower that is stopped most of the time: puts a second of 16 clients over those beside a healthy one",
        "×",
        of("slow follower", "16 clients, stopped in pulses: over healthy", "×"),
        at_least=UNHARMED,
    ),
    Goal(
        "… median of one client over that beside a healthy one",
        "×",
        of("slow follower", "one client, stopped in pulses: over healthy", "×"),
        at_most=1 / UNHARMED,
    ),
)


def judge(rows: Sequence[Row]) -> list[Judged]:
    """Every goal, in the order of the design; those that this run has no figure for say so."""
    asked = Rows(rows)
    return [goal.judge(asked) for goal in GOALS]
