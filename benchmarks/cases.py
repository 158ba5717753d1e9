"""What can be measured: a case is a function that yields rows, registered by @case. `load()` finds them all.

@case("clients", "throughput of blocking clients", seconds=60, quick_seconds=15, plot=("clients", "per second"))
def clients(run: Run) -> Iterator[Row]:
    yield Row("clients", "put", "raftlog", {"clients": 16}, "per second", [9_600.0, 9_400.0])
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import benchmarks

FLOOR = "floor"  # the system of a row that says what the machine itself takes


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure. Rows that differ in `params` alone are a series, which a plot of the case shows as one line.

    Args:
        case: the name of the case that measured it.
        name: what was measured.
        system: whose figure it is: "raftlog", "etcd", …, or FLOOR.
        params: under which circumstances, such as {"clients": 16}.
        unit: "per second", "ms", "MiB", … A higher figure is better where it ends in "per second".
        values: one for each repeat; none where it could not be measured, and then `note` says why.
        beside: the system that ratios are made against: its row of the same name, params and unit; "" for none.
        note: what a reader has to know of this row.
    """

    case: str
    name: str
    system: str
    params: dict[str, Any]
    unit: str
    values: list[float]
    beside: str = ""
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What a row of another system must share to be put beside this one."""
        return (self.case, self.name, self.unit, *sorted((name, str(value)) for name, value in self.params.items()))

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("per second")


def not_measured(case: str, name: str, system: str, unit: str, why: str, params: dict[str, Any] | None = None) -> Row:
    """The row of a figure that cannot be had here; never an estimate."""
    return Row(case, name, system, params or {}, unit, [], note=f"not measured: {why}")


def last_line(error: BaseException) -> str:
    """What an error says in the end, for a note: of a traceback its last line."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]


class Gathered:
    """The rows of a case while its repeats are measured, in turns with what they are put beside."""

    def __init__(self, case: str) -> None:
        self._case = case
        self._rows: dict[tuple[Any, ...], Row] = {}

    def add(
        self,
        name: str,
        system: str,
        params: dict[str, Any],
        unit: str,
        value: float,
        *,
        beside: str = "",
        note: str = "",
    ) -> None:
        """One repeat. Notes of several repeats that differ are all kept."""
        row = Row(self._case, name, system, params, unit, [], beside, note)
        there = self._rows.setdefault((system, *row.key), row)
        there.values.append(value)
        if note and note not in there.note:
            self._rows[(system, *row.key)] = dataclasses.replace(
                there, note="; ".join(filter(None, [there.note, note]))
            )

    def rows(self) -> list[Row]:
        """In the order of their first repeats."""
        return list(self._rows.values())


@dataclasses.dataclass
class Run:
    """How to measure, and where. For the thread that runs the case.

    Args:
        quick: fewer circumstances, one repeat.
        repeats: how often each figure is measured, in turns with what it is put beside.
        seconds: of one measurement.
        folder: fresh, on a real file system, removed after the case.
        minutes: of a case that lasts as long as it is told to (soak).
        objects: its processes say what they hold more of (soak).
        tell: shows one line of progress.
    """

    quick: bool
    repeats: int
    seconds: float
    folder: Path
    minutes: float = 30.0
    objects: bool = False
    tell: Callable[[str], None] = lambda text: None

    def note(self, text: str) -> None:
        self.tell(text)


Measure = Callable[[Run], Iterator[Row]]


@dataclasses.dataclass(frozen=True)
class Case:
    """`seconds` and `quick_seconds` are what it is thought to take. `plots` are pairs of a parameter and a unit."""

    name: str
    text: str
    seconds: float
    quick_seconds: float
    measure: Measure
    plots: tuple[tuple[str, str], ...] = ()
    by_default: bool = True
    in_quick: bool = True

    def runs(self, quick: bool) -> bool:
        """Whether it is measured where nothing is said of it."""
        return self.by_default and (self.in_quick or not quick)


_cases: dict[str, Case] = {}


def case(
    name: str,
    text: str,
    *,
    seconds: float,
    quick_seconds: float,
    plot: tuple[str, str] | list[tuple[str, str]] | None = None,
    by_default: bool = True,
    in_quick: bool = True,
) -> Callable[[Measure], Measure]:
    """Register a case. Raises ValueError where the name is taken by another function.

    Args:
        plot: the parameter along the one axis and the unit along the other, or a list of such pairs.
        by_default: False where it is run by --only alone.
        in_quick: False where --quick leaves it out, unless --only names it.
    """
    plots = (plot,) if isinstance(plot, tuple) else tuple(plot or ())

    def register(measure: Measure) -> Measure:
        there = _cases.get(name)
        if there is not None and there.measure.__module__ != measure.__module__:
            raise ValueError(f"there are two cases named {name!r}: {there.measure.__module__}, {measure.__module__}")
        _cases[name] = Case(name, text, seconds, quick_seconds, measure, plots, by_default, in_quick)
        return measure

    return register


def load() -> dict[str, Case]:
    """All cases by name, in the order of their files and lines. A module has some where a line begins with "@case("."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        source = Path(benchmarks.__path__[0]) / f"{module.name}.py"
        if source.exists() and "\n@case(" in source.read_text():
            importlib.import_module(f"benchmarks.{module.name}")
    return dict(_cases)
