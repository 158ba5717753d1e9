"""Known bugs of Raft implementations, to prove that the checks can fail: each is switched on by exchanging functions of
the code under test, and for the tests' time only. Nothing in production code knows of them.

    python -m raftlog.testing.mutations            what each breaks, and its recorded first seed
    python -m raftlog.testing.mutations --search   look for the first seed of each, and record it
    python -m raftlog.testing.simulate --seeds 0-199 --mutation NAME

`first_seeds.json` keeps, for each mutation, nodes and the first seed that finds it, and the invariant that fell: CI
replays those.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

Patch = tuple[Any, str, Any]  # object, attribute, what stands in for it
FIRST_SEEDS: Final = Path(__file__).with_name("first_seeds.json")
MAX_SEEDS: Final = 200
LONG: Final = 6000  # events


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug. `patches()` imports what it changes, and gives the changes."""

    name: str
    bug: str
    patches: Callable[[], list[Patch]]
    workload: str = "kv"  # of the simulation that finds it
    leases: bool = False  # likewise: in a run with leases


MUTATIONS: Final[dict[str, Mutation]] = {}


def mutation(
    name: str, bug: str, *, workload: str = "kv", leases: bool = False
) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    """Put a mutation into the registry."""

    def register(patches: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        MUTATIONS[name] = Mutation(name, bug, patches, workload, leases)
        return patches

    return register


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Switch one mutation on. Raises KeyError for a name that is none, AttributeError where the code has moved on."""
    with ExitStack() as stack:
        for patch in MUTATIONS[name].patches():
            stack.enter_context(patched(*patch))
        yield


@contextmanager
def patched(target: Any, attribute: str, replacement: Any) -> Iterator[None]:
    """Exchange one attribute."""
    original = getattr(target, attribute)
    setattr(target, attribute, replacement)
    try:
        yield
    finally:
        setattr(target, attribute, original)


def in_order() -> list[Mutation]:
    """As they are defined, workload by workload, whichever module was imported first."""
    return sorted(MUTATIONS.values(), key=lambda each: each.workload)


def recorded() -> dict[str, dict[str, Any]]:
    """name -> {"seed", "nodes", "events", "invariant", "step"}, as the last search found them."""
    found: dict[str, dict[str, Any]] = json.loads(FIRST_SEEDS.read_text(encoding="utf-8"))
    return found


def first_seed(name: str, max_seeds: int = MAX_SEEDS) -> dict[str, Any] | None:
    """The first seed whose simulation finds the mutation, of 5 nodes, else of 3, else of 5 in longer runs; None: none.

    On SQLite, 3 nodes only: what happens there happens between few as well.
    """
    from raftlog.testing.simulation import Options, simulate

    workload = MUTATIONS[name].workload
    with mutated(name):
        for nodes, events in ((5, 2000), (3, 2000), (5, LONG)) if workload == "kv" else ((3, 2000),):
            for seed in range(max_seeds):
                options = Options(seed, nodes, events, workload=workload, leases=MUTATIONS[name].leases)
                report = simulate(options)
                if report.violation:
                    found = {"seed": seed, "nodes": nodes, "events": options.events}
                    return {**found, "invariant": report.invariant, "step": report.steps}
    return None


def markdown() -> str:
    """The table in docs/safety.md."""
    found = recorded()
    lines = ["| mutation | the bug | first seed that finds it | what fell |", "| --- | --- | --- | --- |"]
    for each in in_order():
        entry = found.get(each.name, {})
        length = f"{LONG} events, " if entry.get("events") == LONG else ""
        seed = f"{entry['seed']} ({entry['nodes']} nodes, {length}step {entry['step']})" if entry else "none"
        lines.append(f"| `{each.name}` | {each.bug} | {seed} | {entry.get('invariant', '')} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None, out: TextIO = sys.stdout) -> int:
    """Exit code 1 where a search did not find a mutation."""
    parser = argparse.ArgumentParser(prog="python -m raftlog.testing.mutations", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--search", action="store_true", help=f"find and record the first seed of each, up to {MAX_SEEDS}"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/safety.md")
    parser.add_argument("names", nargs="*", help="only these")
    options = parser.parse_args(arguments)
    if options.markdown:
        out.write(markdown())
        return 0
    found = recorded() if FIRST_SEEDS.exists() else {}
    missing = 0
    for name in options.names or MUTATIONS:
        if options.search:
            result = first_seed(name)
            found.pop(name, None)
            if result is None:
                missing += 1
            else:
                found[name] = result
        entry = found.get(name)
        where = f"seed {entry['seed']}, step {entry['step']}: {entry['invariant']}" if entry else "not found"
        out.write(f"{name:34} {where:50} {MUTATIONS[name].bug}\n")
        out.flush()
    if options.search:
        kept = {each.name: found[each.name] for each in in_order() if each.name in found}
        FIRST_SEEDS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 1 if missing else 0


from raftlog.testing import known_bugs, known_bugs_of_change, known_bugs_of_leases  # noqa: E402, F401  fills the registry
from raftlog.testing.sql import known_bugs as sql_known_bugs  # noqa: E402, F401

if __name__ == "__main__":
    from raftlog.testing import mutations

    logging.getLogger("raftlog").setLevel(logging.CRITICAL)  # what simulated nodes log is meant
    sys.exit(mutations.main())
