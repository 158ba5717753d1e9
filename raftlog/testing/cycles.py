"""The graph of "must come before" between transactions, and its cycles, named as Adya names them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_STARTS: Final = 200  # transactions from which a shorter cycle is looked for
MAX_CYCLES: Final = 5
_DEPENDENCIES: Final = frozenset({"ww", "wr"})


class Edge(NamedTuple):
    """`source` must come before `target`. `words` follow the name of the source: "read x = 1, which T2 replaced"."""

    source: int
    target: int
    kind: str
    words: str
    key: str = ""


@dataclass(frozen=True)
class Cycle:
    kind: str
    edges: tuple[Edge, ...]  # without moments: `source` are transactions, each before the next
    names: Sequence[str]

    def text(self) -> str:
        count = len(self.edges)
        lines = [f"no serial order explains these {count} transactions:"]
        for position, edge in enumerate(self.edges):
            following = self.names[self.edges[(position + 1) % count].source]
            words = f"had ended before {following} began" if edge.kind == "rt" else edge.words
            lines.append(f"  [{edge.kind}] {self.names[edge.source]} {words}")
        return "\n".join(lines)


class Graph:
    """Nodes 0 … len(names) - 1 are transactions, those after them moments."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._count = len(names)
        self._edges: dict[int, dict[int, dict[str, Edge]]] = defaultdict(dict)
        self.edge_count = 0

    def new_moment(self) -> int:
        self._count += 1
        return self._count - 1

    def add(self, edge: Edge) -> None:
        kinds = self._edges[edge.source].setdefault(edge.target, {})
        if edge.kind not in kinds:
            kinds[edge.kind] = edge
            self.edge_count += 1

    def cycles(self) -> list[Cycle]:
        """Some cycles, of the worst kind that each has; no transaction is in two. Real time only where nothing else."""
        found: list[Cycle] = []
        for time in (frozenset[str](), frozenset({"rt"})):
            core = self._core(range(self._count), _DEPENDENCIES | {"rw"} | time)
            while core and len(found) < MAX_CYCLES:
                cycle = self._worst(core, time)
                found.append(cycle)
                core = self._core(core.difference(edge.source for edge in cycle.edges), _DEPENDENCIES | {"rw"} | time)
            if found:
                break
        return found

    def _core(self, nodes: Iterable[int], kinds: frozenset[str]) -> frozenset[int]:
        """What is left when all that nothing must come before, or after, is taken away: empty without a cycle."""
        core = set(nodes)
        entering = dict.fromkeys(core, 0)
        leaving = dict.fromkeys(core, 0)
        into: dict[int, list[int]] = defaultdict(list)
        out: dict[int, list[int]] = {}
        for node in core:
            out[node] = [edge.target for edge in self._out(node, core, kinds)]
            leaving[node] = len(out[node])
            for target in out[node]:
                entering[target] += 1
                into[target].append(node)
        free = [node for node in core if not entering[node] or not leaving[node]]
        while free:
            node = free.pop()
            if node in core:
                core.remove(node)
                for counts, neighbours in ((entering, out[node]), (leaving, into[node])):
                    for neighbour in neighbours:
                        counts[neighbour] -= 1
                        if not counts[neighbour]:
                            free.append(neighbour)
        return frozenset(core)

    def _worst(self, core: frozenset[int], time: frozenset[str]) -> Cycle:
        suffix = "-realtime" if time else ""
        for kind, kinds in (("G0", frozenset({"ww"}) | time), ("G1c", _DEPENDENCIES | time)):
            if path := self._shortest_cycle(core, kinds):
                return self._cycle(kind + suffix, path)
        if path := self._single(core, _DEPENDENCIES | time):
            return self._cycle("G-single" + suffix, path)
        path = self._shortest_cycle(core, _DEPENDENCIES | time | {"rw"})
        is_lost = len(path) == 2 and path[0].key == path[1].key
        return self._cycle("lost update" if is_lost else "G2" + suffix, path)

    def _cycle(self, kind: str, path: list[Edge]) -> Cycle:
        first = next(n for n, edge in enumerate(path) if edge.source < len(self._names))
        turned = path[first:] + path[:first]
        return Cycle(kind, tuple(edge for edge in turned if edge.source < len(self._names)), self._names)

    def _single(self, core: frozenset[int], kinds: frozenset[str]) -> list[Edge]:
        """The shortest cycle with exactly one anti-dependency."""
        best: list[Edge] = []
        for source in core:
            for edge in self._out(source, core, frozenset({"rw"})):
                if path := self._path(edge.target, source, core, kinds, shorter_than=len(best) - 1 if best else 0):
                    best = [edge, *path]
            if len(best) == 2:
                break
        return best

    def _shortest_cycle(self, core: frozenset[int], kinds: frozenset[str]) -> list[Edge]:
        best: list[Edge] = []
        core = self._core(core, kinds)  # only there can a cycle of these kinds be
        for starts, node in enumerate(sorted(core)):
            if len(best) == 2 or (best and starts >= MAX_STARTS):
                break
            if path := self._path(node, node, core, kinds, shorter_than=len(best)):
                best = path
        return best

    def _path(
        self, source: int, target: int, within: AbstractSet[int], kinds: frozenset[str], shorter_than: int = 0
    ) -> list[Edge]:
        """The shortest path of one edge or more; [] where there is none of fewer edges than `shorter_than` (0: any)."""
        came_by: dict[int, Edge] = {}
        reached, length = [source], 0
        while reached and (not shorter_than or length + 1 < shorter_than):
            length += 1
            following: list[int] = []
            for node in reached:
                for edge in self._out(node, within, kinds):
                    if edge.target in came_by:
                        continue
                    came_by[edge.target] = edge
                    if edge.target == target:
                        return self._walk_back(came_by, source, target)
                    following.append(edge.target)
            reached = following
        return []

    def _walk_back(self, came_by: dict[int, Edge], source: int, target: int) -> list[Edge]:
        path = [came_by[target]]
        while path[-1].source != source:
            path.append(came_by[path[-1].source])
        return path[::-1]

    def _out(self, node: int, within: AbstractSet[int], kinds: frozenset[str]) -> Iterator[Edge]:
        for target, edges in self._edges.get(node, {}).items():
            if target in within:
                for kind, edge in edges.items():
                    if kind in kinds:
                        yield edge
                        break
