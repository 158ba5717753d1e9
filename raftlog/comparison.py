"""Comparing this node with its peers in passing, and its tables with what the log made them (rule 16).

Two threads. *compare* asks each peer once a second for its running hash and looks up its own at the same index.
Where they differ, the values of all voters at that index are counted: a node that does not have the majority's
has diverged; one that has it tells which peer has not. It also judges an entry that apply holds. *scan* compares tables
with their sums: after a start, whenever somebody else has written the database, and every hour.

A node that has diverged withdraws (no linearizable reads, no proposals, no leadership), finds out since which entry and
which rows differ, tells it in status, log and a signal, and stops applying. It says so again after a restart.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from django.db import connections

from raftlog.exceptions import RaftlogError
from raftlog.log_fields import log_fields
from raftlog.replication.apply import DatabaseStateMachine
from raftlog.replication.divergence import ANSWERS, Divergence, TableReader, differing_tables
from raftlog.replication.naming import Namer
from raftlog.runtime import clock
from raftlog.runtime.server import RaftServer
from raftlog.runtime.threads import NodeThread

logger = logging.getLogger("raftlog.divergence")

INTERVAL: Final = 1.0  # seconds between two comparisons
HELD_INTERVAL: Final = 0.1  # the same while an entry is held
SCRUB_INTERVAL: Final = 3600.0  # seconds between two scans without a reason
LONELY_SCAN: Final = 60.0  # seconds until the first scan of a node that has no peers
NAMING_TIME: Final = 3.0  # seconds for finding the rows that differ
# A scan rests for so many times as long as it works: with a reason for suspicion, without.
REST_SUSPICIOUS: Final = 1.0
REST_ROUTINE: Final = 9.0
MAX_REST: Final = 0.5  # seconds

WAY_OUT: Final = (
    "Stop the node, run `manage.py raft repair --database` on its host, and start it again: its database is made anew"
    " from the log"
)

# (peer, name of the request, arguments) -> answer. Raises RaftlogError, OSError.
AskPeer = Callable[[str, str, dict[str, Any]], Any]


class _Stopping(Exception):
    """The node stops in the middle of a scan."""


class Comparison:
    """The two threads of one node. start(), ask_to_stop() and join() once; `status` and `answers` from any thread."""

    def __init__(
        self,
        service: RaftServer,
        machine: DatabaseStateMachine,
        ask_peer: AskPeer,
        on_divergence: Callable[[Divergence], None],
        on_death: Callable[[str, BaseException], None],
    ) -> None:
        self.divergence: Divergence | None = None
        # peer -> how it differs, where this node is with the majority; peer -> index at which it was last alike
        self.differing: dict[str, str] = {}
        self.alike: dict[str, int] = {}
        # Nodes differ, and no majority is known to be alike.
        self.undecided = ""
        self._service = service
        self._machine = machine
        self._watch = machine.watch
        self._node_id = service.state.raft.node_id
        self._ask_peer = ask_peer
        self._on_divergence = on_divergence
        self._stopping = threading.Event()
        # One of the two threads says that this node has diverged.
        self._declaring = threading.Lock()
        self._threads = [
            NodeThread(f"raftlog-{self._node_id}-compare", self._compare_main, on_death),
            NodeThread(f"raftlog-{self._node_id}-scan", self._scan_main, on_death),
        ]
        self._watch.has_judge = True
        if self._watch.diverged:  # from before a restart
            service.state.withdraw(self._watch.diverged)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def join(self, timeout: float) -> list[str]:
        """After the state machine was stopped. Returns the names of threads that did not end within `timeout`."""
        deadline = clock.monotonic() + timeout
        return [t.name for t in self._threads if not t.join(deadline - clock.monotonic())]

    def status(self) -> dict[str, Any]:
        """For `raft status`: what is known, as plain data."""
        history = self._watch.history
        index = history.last_index
        warnings = [f"{peer}: {text}" for peer, text in sorted(self.differing.items())]
        if self.undecided:
            warnings.append(self.undecided)
        problems = []
        if self.divergence is not None and not self._watch.diverged:
            problems.append(f"the database has diverged {self.divergence}")
        return {
            "fingerprint": {
                "index": index,
                "value": (history.value_at(index) or b"").hex(),
                "since": self._machine.fingerprint_since,
                "alike": dict(self.alike),
            },
            "divergence": msgspec.to_builtins(self.divergence) if self.divergence is not None else None,
            "differing_peers": dict(self.differing),
            "warnings": warnings,
            "problems": problems,
        }

    def answers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """The requests of peers that this node answers, by name."""
        return {"fingerprint": self._answer, **{name: partial(self._answer_from_tables, name) for name in ANSWERS}}

    def _answer(self, arguments: dict[str, Any]) -> dict[str, Any]:
        watch, index = self._watch, arguments["index"]
        applied = watch.history.last_index
        return {
            "applied": applied,
            "value": watch.history.value_at(applied),
            "since": self._machine.fingerprint_since,
            "at": watch.value_at(index),
            "differences": watch.history.differences_at(index),
            "diverged": watch.diverged,
        }

    def _answer_from_tables(self, name: str, arguments: dict[str, Any]) -> Any:
        reader = self.open_reader()
        if reader is None:
            raise RaftlogError(f"{self._node_id} cannot read its tables")
        try:
            return ANSWERS[name](reader, arguments)
        finally:
            reader.close()

    def open_reader(self) -> TableReader | None:
        """None: an ENGINE whose rows nobody captures."""
        make = getattr(connections[self._machine.alias], "table_reader", None)
        return make() if make else None

    # The compare thread

    def _compare_main(self) -> None:
        """Body of the thread: once a second, or ten times while an entry is held."""
        while not self._stopping.is_set():
            if not self._watch.diverged:
                self.compare()
            self._watch.wait(HELD_INTERVAL if self._watch.held is not None else INTERVAL)

    def compare(self) -> None:
        """One round: judge what is held, then look at each peer."""
        held = self._watch.held
        if held is not None:
            self._judge(held.index, held.value)
            return
        history = self._watch.history
        suspects: list[tuple[int, str]] = []
        for peer in self._peers():
            index = history.last_index
            answer = self._ask(peer, index)
            if answer is None or answer["since"] != self._machine.fingerprint_since:
                continue
            mine, theirs = history.value_at(index), answer["at"]
            if theirs is None:
                index, theirs = answer["applied"], answer["value"]
                mine = history.value_at(index)
            if mine is None or theirs is None:
                continue  # one of the two has forgotten it by now
            if mine != theirs:
                suspects.append((index, peer))
            else:
                self.alike[peer] = index
                self._told(peer, answer["diverged"])
        self.undecided = ""
        for index, _ in suspects[:1]:
            self._judge(index, history.value_at(index))

    def _judge(self, index: int, mine: bytes | None) -> None:
        """Which value of the running hash at `index` does a majority of the voters have?"""
        voters = self._service.state.raft.configuration.all_voters
        values: dict[str, bytes] = {self._node_id: mine} if mine is not None else {}
        own_words: dict[str, str] = {}
        for peer in self._peers():
            answer = self._ask(peer, index)
            if answer is not None and answer["at"] is not None and answer["since"] == self._machine.fingerprint_since:
                values[peer], own_words[peer] = answer["at"], answer["diverged"]
        counted = Counter(value for node, value in values.items() if node in voters)
        best, count = counted.most_common(1)[0] if counted else (b"", 0)
        if mine is None or count <= len(voters) // 2:
            others = sorted(values.keys() - {self._node_id})
            self.undecided = f"running hashes at entry {index} differ between {self._node_id} and {others}, no majority"
        elif mine != best:
            self._diverged(index, next(node for node in sorted(values) if values[node] == best))
        else:
            self._watch.settle(index)
            for peer, value in values.items():
                if value != best:
                    self._told(peer, own_words[peer] or f"differs from the majority at entry {index}")

    def _told(self, peer: str, text: str) -> None:
        """What is thought of a peer, "": nothing."""
        if text and peer not in self.differing:
            logger.error(
                "%s: the database of %s has diverged: %s",
                *(self._node_id, peer, text),
                extra=log_fields("divergence_found", node=self._node_id, peer=peer, reason=text),
            )
        if text:
            self.differing[peer] = text
        else:
            self.differing.pop(peer, None)

    def _peers(self) -> list[str]:
        return sorted(self._service.state.raft.configuration.servers.keys() - {self._node_id})

    def _ask(self, peer: str, index: int) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = self._ask_peer(peer, "fingerprint", {"index": index})
        except (RaftlogError, OSError):
            return None  # it is down, or does not know the question yet
        return answer

    # The scan thread

    def _scan_main(self) -> None:
        """Body of the thread: at the start, after a change that was not the log's, every hour."""
        # A process that is the node of a cluster of one for a moment (migrate, shell) does not read every row for it.
        seen, next_scrub = 0, clock.monotonic() + (LONELY_SCAN if self._is_alone() else 0.0)
        while not self._stopping.is_set():
            changes = self._watch.changes
            is_due = changes != seen or clock.monotonic() >= next_scrub
            if is_due and not self._watch.diverged and self._watch.history.last_index:
                rest = REST_SUSPICIOUS if changes != seen else REST_ROUTINE
                if self.scan(rest):
                    seen, next_scrub = changes, clock.monotonic() + SCRUB_INTERVAL
            self._watch.wait(INTERVAL)

    def scan(self, rest: float) -> bool:
        """Compare every table with its sum, resting for `rest` times the time it takes. False: it could not be done."""
        changed_at = self._watch.take_changed_at()
        reader = None
        try:
            reader = self.open_reader()
            if reader is None:
                return True
            for table, index in differing_tables(reader, self._pause(rest)):
                self._found(table, changed_at or index)
        except _Stopping:
            return False
        except self._driver_error as error:
            logger.warning(
                "%s: the tables could not be scanned, which is tried again: %s",
                *(self._node_id, error),
                extra=log_fields("scan_failed", node=self._node_id, reason=str(error)),
            )
            return False
        finally:
            if reader is not None:
                reader.close()
        return True

    def _pause(self, rest: float) -> Callable[[], None]:
        began = clock.monotonic()

        def pause() -> None:
            nonlocal began
            self._stopping.wait(min(MAX_REST, (clock.monotonic() - began) * rest))
            if self._stopping.is_set():
                raise _Stopping
            began = clock.monotonic()

        return pause

    def _is_alone(self) -> bool:
        voters: frozenset[str] = self._service.state.raft.configuration.all_voters
        return voters == {self._node_id}

    def _found(self, table: str, index: int) -> None:
        """Rows of a table are not what the log made them: that is this node's alone, whatever others have."""
        self._declare(lambda namer: namer.changed_by_hand(table, index), withdraw=not self._is_alone())

    # Diverged

    def _diverged(self, index: int, peer: str) -> None:
        """The majority, and `peer` with it, has another running hash at `index`."""
        held = self._watch.held
        if held is not None and held.index == index:
            self._declare(lambda namer: namer.refused(held, peer), withdraw=True)
        else:
            self._declare(lambda namer: namer.since(index, peer), withdraw=True)

    def _declare(self, name: Callable[[Namer], Divergence], *, withdraw: bool) -> None:
        with self._declaring:
            if self.divergence is not None:
                return
            if withdraw:
                self._service.withdraw(
                    "this node's database has diverged from the majority's; what differs is looked for"
                )
            divergence = self._named(name)
            text = f"this node's database has diverged {divergence}"
            if withdraw:
                text = f"{text}. It serves no linearizable reads and takes no proposals. {WAY_OUT}"
                self._service.state.withdraw(text)
                self._watch.diverge(text)
            self.divergence = divergence
            logger.critical(
                "%s: %s",
                *(self._node_id, text),
                extra=log_fields("divergence_found", node=self._node_id, index=divergence.index, reason=text),
            )
        self._on_divergence(divergence)

    def _named(self, name: Callable[[Namer], Divergence]) -> Divergence:
        deadline = clock.monotonic() + NAMING_TIME
        reader = None
        try:
            reader = self.open_reader()
            namer = Namer(
                self._node_id,
                self._watch.history,
                reader,
                self._ask_peer,
                self._peers(),
                self._service.read_entry,
                lambda: self._stopping.is_set() or clock.monotonic() > deadline,
            )
            return name(namer)
        except self._driver_error as error:
            logger.warning(
                "%s: what differs cannot be read: %s",
                *(self._node_id, error),
                extra=log_fields("scan_failed", node=self._node_id, reason=str(error)),
            )
            index = self._watch.history.last_index
            return Divergence(self._node_id, index, False, "unknown", "", 0, [], [], "")
        finally:
            if reader is not None:
                reader.close()

    @property
    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = connections[self._machine.alias].Database.Error  # type: ignore[attr-defined]
        return error
