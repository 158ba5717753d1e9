"""Conversations with a cluster: blocks of commands, `----`, and what happened, from the core's own events.

Commands: `cluster servers=1,2,3 [formed]`, `campaign 1`, `suspect 1 2,3` (leader, by whom), `propose 1 x y`,
`partition 1 | 2,3`, `cut 1 3` (both ways), `heal`, `run 0.5` (seconds), `crash 1`, `restart 1`, `transfer 1 2`,
`read 1`, `log 1,2`.
An entry is written term:index. Everything is delivered after each command.

Commit a changed transcript only when you can say why it changed.
"""

from __future__ import annotations

from collections.abc import Callable

from raftlog.consensus.entries import COMMAND, CONFIGURATION, HEADER_BYTES
from tests.consensus.cluster import Cluster


class Transcript:
    """One conversation."""

    def __init__(self) -> None:
        self.cluster = Cluster("1")
        self.reads = 0

    def answer(self, text: str) -> str:
        """Each block of `text` with its answer renewed."""
        blocks = [block for block in text.strip().split("\n\n") if block]
        return "\n\n".join(self._answer_block(block) for block in blocks) + "\n"

    def _answer_block(self, block: str) -> str:
        asked = block.split("\n----")[0]
        lines = []
        for line in asked.splitlines():
            if not line.startswith("#"):
                name, *arguments = line.split()
                command: Callable[..., str | None] = getattr(self, f"do_{name}")
                said = command(*arguments)
                self.cluster.settle()
                lines += self._news() + ([said] if said else [])
        return asked + "\n----\n" + "\n".join(lines)

    def _news(self) -> list[str]:
        lines = []
        for node_id, events in sorted(self.cluster.events.items()):
            lines += [f"{node_id} {event}" for event in events]
            events.clear()
        for node_id, reads in sorted(self.cluster.reads.items()):
            lines += [f"{node_id} may read at {index}" if index else f"{node_id}: read refused" for _, index in reads]
            reads.clear()
        return lines

    def do_cluster(self, servers: str, formed: str = "") -> None:
        self.cluster = Cluster(*servers.removeprefix("servers=").split(","), formed=bool(formed))
        for events in self.cluster.events.values():
            events.clear()

    def do_campaign(self, node_id: str) -> None:
        self.cluster.campaign(node_id)

    def do_suspect(self, leader_id: str, node_ids: str) -> None:
        for node_id in node_ids.split(","):
            self.cluster.do(node_id, lambda raft: raft.suspect_leader(leader_id, self.cluster.now))

    def do_propose(self, node_id: str, *texts: str) -> str:
        entry = self.cluster.propose(node_id, *texts)
        self.cluster.settle()
        is_committed = self.cluster.rafts[node_id].commit_index >= entry.index
        return f"{node_id} appended {entry.term}:{entry.index} ({'committed' if is_committed else 'uncommitted'})"

    def do_partition(self, *groups: str) -> None:
        self.cluster.partition(*[group.split(",") for group in groups if group != "|"])

    def do_cut(self, one: str, other: str) -> None:
        self.cluster.cut(one, other)
        self.cluster.cut(other, one)

    def do_heal(self) -> None:
        self.cluster.heal()

    def do_run(self, seconds: str) -> None:
        self.cluster.run(float(seconds))

    def do_crash(self, node_id: str) -> None:
        self.cluster.crash(node_id)

    def do_restart(self, node_id: str) -> None:
        self.cluster.restart(node_id)

    def do_transfer(self, node_id: str, to: str) -> None:
        self.cluster.do(node_id, lambda raft: raft.transfer_leadership(to, self.cluster.now))

    def do_read(self, node_id: str) -> None:
        self.reads += 1
        self.cluster.do(node_id, lambda raft: raft.request_read(self.reads, self.cluster.now))

    def do_log(self, node_ids: str) -> str:
        return "\n".join(self._log(node_id) for node_id in node_ids.split(","))

    def _log(self, node_id: str) -> str:
        raft = self.cluster.rafts[node_id]
        entries = []
        for index, payload in enumerate(self.cluster.disks[node_id].payloads(), 1):
            name = "configuration" if payload[0] == CONFIGURATION else "no-op"
            if payload[0] == COMMAND:
                name = payload[HEADER_BYTES:].decode()
            entries.append(f"{raft.log.term_at(index)}:{index} {name}")
        return f"{node_id}: {'  '.join(entries)}   commit_index={raft.commit_index}"
