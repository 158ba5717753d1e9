"""The conditions that may differ between two nodes, each with what a command should take instead."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Condition(NamedTuple):
    """One thing that is not as in the first run."""

    name: str
    # "depends on …"
    words: str
    # Where it is not as at first.
    there: str
    advice: str
    # Environment of the process; where there is none, worker.py and sources.py bring it about.
    environment: dict[str, str] = {}
    # Whether the guilty line can be told by letting the condition hold for one line at a time.
    has_sites: bool = False


BASE_ENVIRONMENT: Final = {"PYTHONHASHSEED": "1", "TZ": "UTC", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
OTHER_LOCALE: Final = {"LANG": "POSIX", "LC_ALL": "POSIX"}

# The first two are of a process as a whole: what differs there differs under all others, too.
NOISE: Final = ("again", "memory")
CONDITIONS: Final = (
    Condition(
        "again",
        "something that is different in each process (an address, a file, a service)",
        "in another process",
        "take everything from arguments, ctx and the database",
    ),
    Condition(
        "memory",
        "what its process has run before",
        "where it had been run before",
        "keep nothing in memory from one command to the next",
    ),
    Condition("clock", "the clock", "at another time", "take ctx.now", has_sites=True),
    Condition("random", "chance", "by other chance", "take ctx.random, or ctx.uuid()", has_sites=True),
    Condition("host", "its host's name or process id", "on another host", "give it as an argument", has_sites=True),
    Condition(
        "rows",
        "the order of rows that no order_by() asks for",
        "with rows in another order",
        "add order_by()",
        has_sites=True,
    ),
    Condition("keys", "the counter of automatic keys", "with a counter further on", "take ctx.index for the key"),
    Condition("hash", "the order of a set, or hash()", "with another hash seed", "sort it", {"PYTHONHASHSEED": "2"}),
    Condition("zone", "its process's time zone", "in another time zone", "use ctx.now", {"TZ": "Pacific/Kiritimati"}),
    Condition(
        "locale", "its process's locale or environment", "in another locale", "give it as an argument", OTHER_LOCALE
    ),
)
BY_NAME: Final = {condition.name: condition for condition in CONDITIONS}


def names(*, keys: bool) -> list[str]:
    """`keys`: automatic keys too. SQLite's counters are alike on every node; PostgreSQL's skip after a rollback."""
    return [condition.name for condition in CONDITIONS if keys or condition.name != "keys"]


def environment(names_of: list[str]) -> dict[str, str]:
    changed: dict[str, str] = dict(BASE_ENVIRONMENT)
    for name in names_of:
        changed |= BY_NAME[name].environment
    return changed


def run_of(case: int, conditions: list[str], site: str = "") -> dict[str, Any]:
    """What a worker is told: one run of one case. `site`: file:line for which alone the conditions hold."""
    return {"case": case, "conditions": conditions, "site": site}
