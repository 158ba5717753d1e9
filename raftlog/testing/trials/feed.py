"""The change feed over restarts, leader changes and images: no gap, no repeat but what is documented.

Application processes read the feed of each node, and keep a mirror of the tables from it; they are killed and go on
from the index that they saved. Others write transactions and commands. The leader is killed again and again, and the
database of a node is deleted, whose log does not go back to the beginning any more: it gets an image.

What must hold of each reader:
- Between resets it has seen every entry that any reader saw in that stretch, and says the same of each of them.
- In one run of its process each index is above the one before; after a restart, above what it had saved.
- For each image it is reset once, and never otherwise.
- No insert is of a row that is there, no update or delete of one that is not; at the end its mirror is the database.

The mutation `feed-apart` writes the feed in a transaction of its own, after that of the entries.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from bisect import bisect_right
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from raftlog.runtime import clock
from raftlog.testing.processes import NodeProcess, ProcessCluster
from raftlog.testing.trials import Tell, Trial
from raftlog.testing.trials._feed_client import HITS
from raftlog.testing.trials.chaos import kill_leaders

SETTINGS: Final = "raftlog.testing.torture_site.settings"
# Every few hundred rows the beginning of the log is given up.
OPTIONS: Final = {
    "SEGMENT_BYTES": 65_536,
    "COMPACT_LOG_BYTES": 131_072,
    "KEEP_LOG_BYTES": 65_536,
    "KEEP_LOG_ENTRIES": 1,
    "SNAPSHOT_BYTES_PER_SECOND": 16 << 20,
    "PROPOSAL_TIMEOUT": 5.0,
}
TABLES: Final = ("torture_marker", "torture_hit", "torture_pair", "torture_entry")
INSTALLED: Final = "the database is now an image"
TIMEOUT: Final = 90.0  # seconds
MAX_PROBLEMS: Final = 10  # of one kind that are told


class Client:
    """One reader or writer, started again as often as it is killed."""

    def __init__(self, node: NodeProcess, folder: Path, *arguments: str) -> None:
        self.node, self.folder, self.arguments = node, folder, arguments
        folder.mkdir(parents=True)
        self.kills = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        what, *rest = self.arguments
        command = [sys.executable, "-m", "raftlog.testing.trials._feed_client", what, str(self.folder), *rest]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(command, env=self.node.environment, stdout=output, stderr=output)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def has_died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    @property
    def state(self) -> dict[str, Any]:
        """What a reader saved last."""
        try:
            saved: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return {"index": 0, "resets": 0, "read_at": 0, "rows": {}}
        return saved


class Feed(Trial):
    name = "feed"
    help = "the change feed over restarts, leader changes and images: no gap, no repeat beyond what is documented"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=120.0, help="of load and faults (default: 120)")
        parser.add_argument("--readers", type=int, default=2, help="for each node (default: 2)")
        parser.add_argument("--writers", type=int, default=2, help="in all (default: 2)")
        parser.add_argument("--every", type=float, default=6.0, help="seconds between kills of leaders (default: 6)")
        parser.add_argument("--images", type=int, default=3, help="databases deleted in all (default: 3)")
        parser.add_argument("--mutation", choices=["feed-apart"], help="break it: the trial must find it")

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)  # for the nodes' settings
        environment = {"RAFTLOG_ENGINE": "raftlog.backends.sqlite3"}
        if options["mutation"]:
            environment["RAFTLOG_TORTURE_MUTATION"] = options["mutation"]
        cluster = ProcessCluster(
            options["nodes"], directory, settings_module=SETTINGS, options=OPTIONS, environment=environment
        )
        with cluster:
            return Run(cluster, options, directory, rng, tell).run()


class Run:
    """One run of the trial."""

    def __init__(
        self, cluster: ProcessCluster, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell
    ) -> None:
        self.cluster, self.options, self.rng, self.tell = cluster, options, rng, tell
        self.problems: list[str] = []
        self.images: Counter[str] = Counter()  # installed, by node
        self.readers = [
            Client(node, directory / f"reader-{node.node_id}-{number}", "read", ("changes", "achanges")[number % 2])
            for node in cluster
            for number in range(options["readers"])
        ]
        nodes = list(cluster)
        self.writers = [
            Client(nodes[number % len(nodes)], directory / f"writer-{number}", "write", str(number))
            for number in range(options["writers"])
        ]
        self._over = threading.Event()

    def run(self) -> dict[str, Any]:
        cluster, options = self.cluster, self.options
        cluster.start()
        cluster.wait_for_leader(TIMEOUT)
        cluster["a"].manage("migrate", "--run-syncdb", "--verbosity=0", "--skip-checks", timeout=TIMEOUT)
        seed = f"from raftlog.testing.torture_site.models import Hit; [Hit.objects.create() for _ in range({HITS})]"
        cluster["a"].manage("shell", "-v", "0", "-c", seed)
        try:
            for client in (*self.readers, *self.writers):
                client.start()
            disturbing = [threading.Thread(target=self._delete_databases), threading.Thread(target=self._kill_readers)]
            for thread in disturbing:
                thread.start()
            deadline = clock.monotonic() + options["seconds"]
            kills = kill_leaders(
                cluster,
                self.rng,
                lambda: clock.monotonic() > deadline and not disturbing[0].is_alive(),
                every=options["every"],
                tell=self.tell,
            )
            self._over.set()
            for thread in disturbing:
                thread.join()
            written = self._end_of_writers()
            index = self._end_of_readers()
        finally:
            self._over.set()
            for client in (*self.readers, *self.writers):
                client.kill()
        cluster.close()
        self._judge()
        return {
            "entries": index,
            **written,
            "kills_of_leaders": kills,
            "kills_of_readers": sum(reader.kills for reader in self.readers),
            "images": dict(self.images),
            "changes_read": {reader.folder.name: self._count(reader) for reader in self.readers},
            "problems": self.problems,
        }

    # Faults

    def _kill_readers(self) -> None:
        """One in every pair, so that some run through."""
        rng = random.Random(self.rng.random())
        victims = self.readers[:: max(self.options["readers"], 1)] if self.options["readers"] > 1 else self.readers[:1]
        while not self._over.wait(rng.uniform(4.0, 9.0)):
            victim = rng.choice(victims)
            victim.kill()
            victim.kills += 1
            self._over.wait(rng.uniform(0.0, 1.0))
            victim.start()

    def _delete_databases(self) -> None:
        """Each time of a node whose log does not go back to the beginning; then wait until its readers know."""
        pause = self.options["seconds"] / (self.options["images"] + 1)
        for number in range(self.options["images"]):
            if self._over.wait(pause):
                return
            node = list(self.cluster)[number % len(self.cluster)]
            if not self._wait(
                lambda node=node: (node.status() or {}).get("first_index", 0) > 1, "its log is compacted"
            ):
                return
            before = node.log_file.read_text(errors="replace").count(INSTALLED)
            self.tell(f"the database of {node.node_id} is deleted")
            for file in node.directory.glob("db.sqlite3*"):
                file.unlink()
            installed = lambda node=node, before=before: self._installed(node) > before  # noqa: E731
            if not self._wait(installed, f"{node.node_id} has an image"):
                return
            self.images[node.node_id] = self._installed(node)
            readers = [reader for reader in self.readers if reader.node is node]
            reset = lambda node=node, readers=readers: all(  # noqa: E731
                reader.state["resets"] >= self.images[node.node_id] for reader in readers
            )
            self._wait(reset, f"the readers of {node.node_id} are reset")

    @staticmethod
    def _installed(node: NodeProcess) -> int:
        return node.log_file.read_text(errors="replace").count(INSTALLED)

    def _wait(self, reached: Any, what: str) -> bool:
        deadline = clock.monotonic() + TIMEOUT
        while not reached():
            if clock.monotonic() > deadline:
                self.problems.append(f"not within {TIMEOUT:g} s: {what}")
                return False
            clock.sleep(0.1)
        return True

    # The end

    def _end_of_writers(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for writer in self.writers:
            (writer.folder / "stop").touch()
        for writer in self.writers:
            assert writer.process is not None
            writer.process.wait(TIMEOUT)
            found.update(json.loads((writer.folder / "written.json").read_text()))
        return dict(found)

    def _end_of_readers(self) -> int:
        for reader in self.readers:
            if reader.has_died:
                output = (reader.folder / "output").read_text(errors="replace")[-2_000:]
                self.problems.append(f"{reader.folder.name} ended by itself: {output}")
        index = self.cluster.wait_all_applied(TIMEOUT)
        self._wait(lambda: all(reader.state["index"] >= index for reader in self.readers), f"all read up to {index}")
        return index

    def _count(self, reader: Client) -> int:
        return sum(word == "change" for word, *_ in journal(reader.folder))

    def _judge(self) -> None:
        journals = {reader.folder.name: journal(reader.folder) for reader in self.readers}
        self.problems += judge(journals)
        for reader in self.readers:
            name, node = reader.folder.name, reader.node
            self.images[node.node_id] = self._installed(node)
            if reader.state["resets"] != self.images[node.node_id]:
                found = f"{reader.state['resets']} resets, and {self.images[node.node_id]} images were installed"
                self.problems.append(f"{name}: {found}")
            self.problems += [f"{name}: {text}" for text in differences(reader.state["rows"], content(node.database))]


Journal = list[tuple[str, int, str]]


def journal(folder: Path) -> Journal:
    """(word, index, what else) of each line that a reader wrote."""
    lines = (folder / "journal").read_text().splitlines()
    split = [line.split(" ", 2) for line in lines]
    return [(words[0], int(words[1]), words[2] if len(words) > 2 else "") for words in split if len(words) > 1]


def judge(journals: dict[str, Journal]) -> list[str]:
    """What is wrong with what the readers saw, in words."""
    seen: dict[int, str] = {}
    problems: list[str] = []
    for name, lines in journals.items():
        for word, index, rest in lines:
            if word == "wrong":
                problems.append(f"{name}: entry {index}: {rest}")
            elif word == "change" and seen.setdefault(index, rest) != rest:
                problems.append(f"{name}: entry {index} is told otherwise than to another reader, or at another time")
    indices = sorted(seen)
    for name, lines in journals.items():
        problems += [f"{name}: {text}" for text in _gaps_and_repeats(lines, indices)[:MAX_PROBLEMS]]
    return problems


def _gaps_and_repeats(lines: Journal, indices: list[int]) -> list[str]:
    problems, at, position = [], 0, {index: number for number, index in enumerate(indices)}
    for word, index, _ in lines:
        if word == "start":  # what it had saved: before what it told last, or after, where there was no more to tell
            if (missed := bisect_right(indices, at)) < bisect_right(indices, index):
                problems.append(f"nothing of entry {indices[missed]} between {at} and {index}, which it had saved")
            at = index
        elif word == "reset":
            at = index
        elif word == "change":
            number = position[index]
            if index <= at:
                problems.append(f"entry {index} comes again after {at}")
            elif number and indices[number - 1] > at:
                problems.append(f"nothing of entry {indices[number - 1]} between {at} and {index}")
            at = index
    if indices and at < indices[-1]:
        problems.append(f"nothing of entry {indices[-1]} after {at}")
    return problems


def content(database: Path) -> dict[str, dict[str, Any]]:
    with closing(sqlite3.connect(database)) as raw:
        return {
            table: {str(row[0]): list(row) for row in raw.execute(f"SELECT * FROM {table}").fetchall()}
            for table in TABLES
        }


def differences(mirror: dict[str, dict[str, Any]], database: dict[str, dict[str, Any]]) -> list[str]:
    """Of a reader's mirror from the tables at the end, in words."""
    found = []
    for table, rows in database.items():
        kept = mirror.get(table, {})
        wrong = sorted(key for key in kept.keys() | rows.keys() if kept.get(key) != rows.get(key))
        if wrong:
            found.append(
                f"{len(wrong)} rows of {table} are otherwise in its mirror, {', '.join(wrong[:3])} for example"
            )
    return found


TRIAL = Feed
