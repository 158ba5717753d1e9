"""Did transactions that ran at the same time do what some serial order of them would have done?

A history is a list of transactions with the values that they read and wrote. Written values are unique, and a
transaction that writes a row has read it before (or `version_order` is given), so that it is known which version
came after which. From this follows a graph in which an edge says "must come before":

    ww  wrote a version, and the other the next one
    wr  wrote what the other read
    rw  read a version, and the other wrote the next one (an anti-dependency)
    rt  had ended before the other began (where the other promises to see that)

There is a serial order if and only if the graph has no cycle. A cycle is named as Adya names it (Generalized Isolation
Level Definitions, 2000; Elle, VLDB 2020): G0, G1c, G-single, G2; reads that no order explains are G1a and G1b.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from raftlog.testing.cycles import Edge, Graph

INITIAL: Final = None  # the value of a row that nobody has written; a row that is not there yet
MAX_READS_SHOWN: Final = 10  # anomalies of single reads in a report


class Read(NamedTuple):
    key: str
    value: str | None


class Write(NamedTuple):
    """`value` is written by no other step of the history."""

    key: str
    value: str


Step = Read | Write


class Status(enum.Enum):
    COMMITTED = "committed"
    ABORTED = "aborted"  # certainly without effect
    UNKNOWN = "unknown"  # committed if somebody has read of it


@dataclass(frozen=True, slots=True)
class Transaction:
    """Moments are seconds on one clock that all clients share; `ended_at` is infinite where nobody was told.

    `strict`: it sees all that had ended before it began; else only what had ended in the same `place`.
    """

    name: str
    steps: Sequence[Step]
    status: Status = Status.COMMITTED
    began_at: float = -math.inf
    ended_at: float = math.inf
    strict: bool = True
    place: str = ""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`kind` as Adya names it; `text` says in words why no serial order explains these transactions."""

    kind: str
    text: str
    transactions: tuple[str, ...] = ()


@dataclass
class Verdict:
    transactions: int = 0
    edges: int = 0
    anomalies: list[Anomaly] = field(default_factory=list)

    def problems(self) -> list[str]:
        return [f"{anomaly.kind}: {anomaly.text}" for anomaly in self.anomalies]


class _Version(NamedTuple):
    writer: int
    is_final: bool  # the transaction's last write of the key


class _Access(NamedTuple):
    """What one transaction did to one key: the values it read before writing any, its last write."""

    reads: list[str | None]
    last_write: str | None


def check(transactions: Iterable[Transaction], version_order: Mapping[str, Sequence[str]] | None = None) -> Verdict:
    """Every transaction is one of the history; `version_order` is the order of a key's values where writers are blind.

    Raises ValueError where two steps write the same value.
    """
    return _Check(list(transactions), version_order or {}).run()


class _Check:
    def __init__(self, transactions: list[Transaction], version_order: Mapping[str, Sequence[str]]) -> None:
        self._all = transactions
        self._version_order = version_order
        self._verdict = Verdict()
        self._versions: dict[tuple[str, str], _Version] = {}
        for number, transaction in enumerate(transactions):
            self._take_writes(number, transaction)

    def _take_writes(self, number: int, transaction: Transaction) -> None:
        last: dict[str, str] = {}
        for step in transaction.steps:
            if isinstance(step, Write):
                if (step.key, step.value) in self._versions:
                    other = self._all[self._versions[step.key, step.value].writer].name
                    raise ValueError(f"{other} and {transaction.name} both write {step.value!r} to {step.key}")
                self._versions[step.key, step.value] = _Version(number, is_final=False)
                last[step.key] = step.value
        for key, value in last.items():
            self._versions[key, value] = _Version(number, is_final=True)

    def run(self) -> Verdict:
        included = self._included()
        accesses = {number: self._accesses(self._all[number]) for number in included}
        graph = Graph([self._all[number].name for number in range(len(self._all))])
        self._reads_from(graph, accesses)
        self._version_edges(graph, accesses)
        add_real_time(graph, [(number, self._all[number]) for number in sorted(included)])
        self._verdict.transactions = len(included)
        self._verdict.edges = graph.edge_count
        for cycle in graph.cycles():
            names = tuple(self._all[edge.source].name for edge in cycle.edges)
            self._verdict.anomalies.append(Anomaly(cycle.kind, cycle.text(), names))
        return self._verdict

    def _included(self) -> set[int]:
        """Those that took effect: committed, or of unknown outcome and read by one that took effect."""
        included = {n for n, transaction in enumerate(self._all) if transaction.status is Status.COMMITTED}
        waiting = list(included)
        while waiting:
            for step in self._all[waiting.pop()].steps:
                version = self._versions.get((step.key, step.value or ""))
                if version is None or version.writer in included:
                    continue
                if self._all[version.writer].status is Status.UNKNOWN:
                    included.add(version.writer)
                    waiting.append(version.writer)
        return included

    def _accesses(self, transaction: Transaction) -> dict[str, _Access]:
        found: dict[str, _Access] = {}
        for step in transaction.steps:
            access = found.setdefault(step.key, _Access([], None))
            if isinstance(step, Write):
                found[step.key] = access._replace(last_write=step.value)
            elif access.last_write is None:
                if step.value not in access.reads:
                    access.reads.append(step.value)
            elif step.value != access.last_write:
                text = f"{transaction.name} wrote {step.key} = {access.last_write}, and then read {shown(step.value)}"
                self._add("internal", text, transaction)
        return found

    # Edges

    def _reads_from(self, graph: Graph, accesses: Mapping[int, Mapping[str, _Access]]) -> None:
        for number, by_key in accesses.items():
            for key, access in by_key.items():
                for value in access.reads:
                    if value is not INITIAL:
                        self._read_from(graph, number, key, value)

    def _read_from(self, graph: Graph, reader: int, key: str, value: str) -> None:
        transaction = self._all[reader]
        version = self._versions.get((key, value))
        if version is None:
            self._add("garbage", f"{transaction.name} read {key} = {value}, which nobody wrote", transaction)
            return
        writer = self._all[version.writer]
        if writer.status is Status.ABORTED:
            text = f"{transaction.name} read {key} = {value}, which {writer.name} wrote, which did not commit"
            self._add("G1a", text, transaction, writer)
        elif version.writer == reader:
            self._add("internal", f"{transaction.name} read {key} = {value} before it wrote that itself", transaction)
        elif not version.is_final:
            text = f"{transaction.name} read {key} = {value}, which {writer.name} wrote and then overwrote itself"
            self._add("G1b", text, transaction, writer)
        else:
            words = f"wrote {key} = {value}, which {transaction.name} read"
            graph.add(Edge(version.writer, reader, "wr", words, key))

    def _add(self, kind: str, text: str, *transactions: Transaction) -> None:
        if len(self._verdict.anomalies) < MAX_READS_SHOWN:
            self._verdict.anomalies.append(Anomaly(kind, text, tuple(t.name for t in transactions)))

    def _version_edges(self, graph: Graph, accesses: Mapping[int, Mapping[str, _Access]]) -> None:
        readers: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        for number, by_key in accesses.items():
            for key, access in by_key.items():
                for value in access.reads:
                    readers[key, value].append(number)
        for key, value, writer in self._successors(accesses):
            new = accesses[writer][key].last_write
            before = self._versions.get((key, value)) if value is not INITIAL else None
            if before is not None and before.writer != writer and before.writer in accesses:
                words = f"wrote {key} = {value}, which {self._all[writer].name} replaced with {new}"
                graph.add(Edge(before.writer, writer, "ww", words, key))
            for reader in readers[key, value]:
                if reader != writer:
                    words = f"read {key} = {shown(value)}, which {self._all[writer].name} replaced with {new}"
                    graph.add(Edge(reader, writer, "rw", words, key))

    def _successors(self, accesses: Mapping[int, Mapping[str, _Access]]) -> Iterator[tuple[str, str | None, int]]:
        """(key, a version, who wrote a version that came next)."""
        for number, by_key in accesses.items():
            for key, access in by_key.items():
                if access.last_write is None or key in self._version_order:
                    continue
                # Where it is not known what a version replaced: it came after the first one, anyway.
                for value in access.reads or [INITIAL]:
                    yield key, value, number
        for key, values in self._version_order.items():
            known = [value for value in values if self._versions[key, value].writer in accesses]
            finals = [value for value in known if self._versions[key, value].is_final]
            for before, after in itertools.pairwise([INITIAL, *finals]):
                assert after is not None
                yield key, before, self._versions[key, after].writer


def shown(value: str | None) -> str:
    return "its first value" if value is INITIAL else value


def add_real_time(graph: Graph, transactions: Sequence[tuple[int, Transaction]]) -> None:
    """An edge from each transaction to those that began after it had ended and promise to see it.

    By way of a chain of moments, so that there are few edges: ended -> moment -> later moment -> begins.
    """
    _add_chain(graph, transactions, [item for item in transactions if item[1].strict])
    for place in {transaction.place for _, transaction in transactions if not transaction.strict}:
        there = [item for item in transactions if item[1].place == place]
        _add_chain(graph, there, [item for item in there if not item[1].strict])


def _add_chain(
    graph: Graph, sources: Sequence[tuple[int, Transaction]], targets: Sequence[tuple[int, Transaction]]
) -> None:
    # At the same moment, who begins comes first: only what ended before that is seen.
    events = sorted(
        [(transaction.began_at, 0, number) for number, transaction in targets]
        + [(transaction.ended_at, 1, number) for number, transaction in sources if transaction.ended_at < math.inf]
    )
    moment = -1
    for _, is_end, number in events:
        if is_end:
            before, moment = moment, graph.new_moment()
            graph.add(Edge(number, moment, "rt", "had ended"))
            if before >= 0:
                graph.add(Edge(before, moment, "rt", ""))
        elif moment >= 0:
            graph.add(Edge(moment, number, "rt", ""))
