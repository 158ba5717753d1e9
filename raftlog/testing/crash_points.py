"""Try every crash of the storage layer: `python -m raftlog.testing.crash_points [--seed N] [--json]`.

A workload appends, syncs, rolls segments, truncates, compacts, resets, saves hard states, meets full disks and
restarts, on a disk in memory (`crash_disk`). Before each call that changes anything, and at the end,
the power is cut: every subset of what was not yet durable (each sector by itself, each directory
operation by itself) is kept or lost, all subsets where they are few, a sample drawn from the seed where
they are many. The process is also killed with the power on, and killed after a sync that failed and
left its pages marked clean. From each of these states the storage is opened again, and this is checked:

1. It opens: a mere crash is never called damage.
2. Everything synced is there, unless it was truncated; nothing truncated comes back.
3. The log is a prefix of what was appended, term, log time and payload.
4. The log begins where it was last compacted or reset to, or where it is just being compacted or reset to.
5. The hard state is the last one saved, or the one that was being saved.
6. Identity and cluster id are what they were.
7. What the opened storage shows is durable: a second crash, also in the middle of recovery, keeps it.
8. It works: what is appended and synced next survives.

Then bits are flipped in what is durable: last batch, hard state slots, footers, metadata. Each must be
refused as LogDamaged or leave the contents whole.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TextIO

from raftlog.consensus.configuration import Configuration, encode_configuration
from raftlog.consensus.entries import COMMAND, NO_OP_PAYLOAD, EntryBatch, Run
from raftlog.consensus.snapshot import NO_BASE, LogBase
from raftlog.consensus.state import HardState
from raftlog.exceptions import DiskFull, LogDamaged, StorageError
from raftlog.runtime import clock
from raftlog.storage import Storage, open_storage
from raftlog.storage.filesystem import SECTOR_BYTES
from raftlog.storage.layout import HARD_STATE
from raftlog.testing.crash_disk import CrashDisk

SEGMENT_BYTES: Final = 8192
DIRECTORY: Final = "data"
INCARNATION: Final = "0123456789abcdef" * 2
NESTED_EVERY: Final = 12  # of how many states one has its recovery crashed too


class Entry(NamedTuple):
    term: int
    log_time: int
    payload: bytes


@dataclass(slots=True)
class Promise:
    """What storage has promised so far, and what the call under way may change of it."""

    exists: bool = False  # open_storage has returned once
    entries: list[Entry] = field(default_factory=list)  # from index 1; those that may be there
    durable_index: int = 0  # entries up to here must be there …
    truncated_index: int = -1  # … unless the log ends exactly here
    bases: tuple[LogBase, ...] = (NO_BASE,)
    reset_to: LogBase | None = None  # all of the above does not count any more once the log begins there
    hard_states: tuple[HardState, ...] = (HardState(),)
    cluster_ids: tuple[str, ...] = ("",)

    @property
    def state(self) -> tuple[object, ...]:
        """What tells it from other promises of the same workload."""
        bases = [(base.index, base.term) for base in (*self.bases, self.reset_to) if base is not None]
        return (self.durable_index, self.truncated_index, len(self.entries), self.hard_states, *bases)

    def check(self, storage: Storage) -> str:
        """Empty, or the promise that `storage` breaks."""
        log = storage.log
        if log.base == self.reset_to:
            return self._check_rest(storage) if log.last_index == log.base.index else "a reset log is not empty"
        if log.base not in self.bases:
            return f"the base {log.base} is none of {self.bases}"
        if log.last_index < self.durable_index and log.last_index != self.truncated_index:
            return f"entries {log.last_index + 1}-{self.durable_index} were durable and are gone"
        if log.last_index > len(self.entries):
            return f"entries {len(self.entries) + 1}-{log.last_index} are back after a truncation"
        expected = self.entries[log.first_index - 1 : log.last_index]
        if contents(storage) != expected:
            return f"entries {log.first_index}-{log.last_index} are not what was appended"
        return self._check_rest(storage) or self._check_index(storage, expected)

    def _check_rest(self, storage: Storage) -> str:
        if storage.hard_state.load() not in self.hard_states:
            return f"hard state {storage.hard_state.load()} is none of {self.hard_states}"
        if storage.metadata.cluster_id not in self.cluster_ids:
            return f"cluster id {storage.metadata.cluster_id!r} is none of {self.cluster_ids}"
        if self.exists and storage.metadata.incarnation != INCARNATION:
            return f"incarnation {storage.metadata.incarnation!r} is another"
        return ""

    def _check_index(self, storage: Storage, expected: list[Entry]) -> str:
        """Term runs and configurations fit the entries."""
        log = storage.log
        terms: list[tuple[int, int]] = []
        for index, entry in enumerate(expected, log.first_index):
            if not terms or terms[-1][1] != entry.term:
                terms.append((index, entry.term))
        if [(run.first_index, run.term) for run in log.term_runs()] != terms:
            return f"term runs {log.term_runs()} are not {terms}"
        found = [index for index, entry in enumerate(expected, log.first_index) if entry.payload[0] == 1]
        if log.configuration_indices() != found:
            return f"configurations at {log.configuration_indices()} are not {found}"
        return ""


def contents(storage: Storage) -> list[Entry]:
    """All entries, read in pieces of different sizes. Raises LogDamaged."""
    log = storage.log
    entries: list[Entry] = []
    index = log.first_index
    while index <= log.last_index:
        batch = log.read(index, log.last_index, 1 + index * 3331 % 20000)
        stamps = [(run.term, run.log_time) for run in batch.runs for _ in range(run.count)]
        entries.extend(Entry(*stamp, payload) for stamp, payload in zip(stamps, batch.payloads, strict=True))
        index += len(batch)
    return entries


def open_on(disk: CrashDisk) -> Storage:
    return open_storage(
        DIRECTORY, node_id="n1", new_incarnation=INCARNATION, filesystem=disk, segment_bytes=SEGMENT_BYTES
    )


@dataclass(slots=True)
class Tally:
    """What was tried. `violations` are sentences; empty: every promise held."""

    calls: int = 0
    crash_states: int = 0
    killed: int = 0
    failed_syncs: int = 0
    crashes_in_recovery: int = 0
    damaged: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def states(self) -> int:
        return self.crash_states + self.killed + self.failed_syncs + self.crashes_in_recovery


class Explorer:
    """Cuts the power at every call of a workload and checks each state that this may leave."""

    def __init__(self, rng: random.Random, samples: int) -> None:
        self.rng = rng
        self.samples = samples
        self.tally = Tally()
        self.disk = CrashDisk()
        self.disk.on_call = self.at_call
        self.promise = Promise()
        self._seen: set[int] = set()

    def at_call(self, call: str) -> None:
        """Before a call: try every crash here. Stops looking once a promise was broken."""
        if self.tally.violations:
            return
        self.tally.calls += 1
        for kept in self.disk.crash_choices(self.rng, self.samples):
            state = self.disk.after_crash(kept)
            if self._is_new(state):
                self.tally.crash_states += 1
                self._check(state, f"power lost before `{call}`, kept {_flags(kept)}")
        self.tally.killed += 1
        self._check(self.disk.clone(), f"killed before `{call}`")
        if call.startswith("sync ") and not call.endswith(".new"):
            self._fail_sync(call)

    def _fail_sync(self, call: str) -> None:
        """The sync fails, its pages count as clean and stay readable: what Linux does."""
        state = self.disk.clone()
        number = state.names.get(call.removeprefix("sync "))
        if number is not None:
            state.inodes[number].pending.clear()
            self.tally.failed_syncs += 1
            self._check(state, f"`{call}` failed and the process ended")

    def _is_new(self, state: CrashDisk) -> bool:
        files = tuple(sorted((name, bytes(state.inodes[number].seen)) for name, number in state.names.items()))
        key = hash((files, self.promise.state))
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _check(self, state: CrashDisk, what: str) -> None:
        inner: list[CrashDisk] = []
        nested = self.tally.states % NESTED_EVERY == 0
        if nested:
            state.on_call = lambda call: inner.append(state.after_crash(self._some(state)))
        found = self._check_open(state, what)
        for disk in inner:
            self.tally.crashes_in_recovery += 1
            found = found or self._check_open(disk, f"{what}, then power lost in recovery")
        if found:
            self.tally.violations.append(found)

    def _some(self, disk: CrashDisk) -> tuple[bool, ...]:
        return tuple(self.rng.random() < 0.5 for _ in range(disk.pending_count()))

    def _check_open(self, disk: CrashDisk, what: str) -> str:
        """Open the storage on a disk that a crash left, check it, crash it again, use it."""
        try:
            storage = open_on(disk)
            if broken := self.promise.check(storage):
                return f"{what}: {broken}"
            shown = contents(storage), storage.hard_state.load(), storage.metadata
            disk.on_call = lambda call: None
            again = disk.after_crash((False,) * disk.pending_count())
            storage = open_on(again)
            if (contents(storage), storage.hard_state.load(), storage.metadata) != shown:
                return f"{what}: a second crash after recovery lost what recovery had shown"
            if self.tally.states % 3 == 0:
                return self._check_use(again, storage, shown[0], what)
        except StorageError as error:
            return f"{what}: {type(error).__name__}: {error}"
        return ""

    def _check_use(self, disk: CrashDisk, storage: Storage, entries: list[Entry], what: str) -> str:
        log = storage.log
        first_index = log.first_index
        if entries and self.rng.random() < 0.3:
            log.truncate_from(log.last_index)
            entries = entries[:-1]
        entry = Entry(1000, 1 << 50, NO_OP_PAYLOAD + bytes(self.rng.randrange(2000)))
        log.append(EntryBatch(log.last_index + 1, [Run(1, entry.term, entry.log_time)], [entry.payload]))
        log.sync()
        storage.hard_state.save(HardState(1000, "n3"))
        storage = open_on(disk.after_crash((False,) * disk.pending_count()))
        if contents(storage) != [*entries, entry] or storage.log.first_index != first_index:
            return f"{what}: what was appended and synced after recovery is not there"
        if storage.hard_state.load() != HardState(1000, "n3"):
            return f"{what}: the hard state saved after recovery is not there"
        return ""

    # Damage

    def damage(self, storage: Storage, last_batch: range) -> None:
        """Flip a bit in each durable sector. `last_batch`: sectors of the last record, where it must be refused."""
        newest = storage.log._open.path  # the format, not the interface, is under test here
        for path in self.disk.list_directory(DIRECTORY):
            path = f"{DIRECTORY}/{path}"
            size = self.disk.inodes[self.disk.names[path]].durable
            for offset in range(0, len(size), SECTOR_BYTES):
                must_refuse = path.endswith(HARD_STATE) or (path == newest and offset // SECTOR_BYTES in last_batch)
                self._flip(path, offset, must_refuse)
        self._blank_newest_slot()

    def _flip(self, path: str, offset: int, must_refuse: bool) -> None:
        disk = self.disk.after_crash((False,) * self.disk.pending_count())
        data = disk.inodes[disk.names[path]].seen
        at = min(offset + self.rng.randrange(SECTOR_BYTES), len(data) - 1)
        data[at] ^= 1 << self.rng.randrange(8)
        self._expect_refusal(disk, f"a bit flipped in {path} at {at}", must_refuse)

    def _blank_newest_slot(self) -> None:
        disk = self.disk.after_crash((False,) * self.disk.pending_count())
        data = disk.inodes[disk.names[f"{DIRECTORY}/{HARD_STATE}"]].seen
        sequences = [int.from_bytes(data[slot + 8 : slot + 16], "little") for slot in (0, SECTOR_BYTES)]
        offset = 0 if sequences[0] > sequences[1] else SECTOR_BYTES
        data[offset : offset + SECTOR_BYTES] = bytes(SECTOR_BYTES)
        self._expect_refusal(disk, "the newest hard state slot blanked", True)

    def _expect_refusal(self, disk: CrashDisk, what: str, must_refuse: bool) -> None:
        self.tally.damaged += 1
        try:
            broken = self.promise.check(open_on(disk))
        except LogDamaged:
            self.tally.refused += 1
            return
        if broken or must_refuse:
            self.tally.violations.append(f"{what}: not refused ({broken or 'contents whole'})")


def _flags(kept: tuple[bool, ...]) -> str:
    return "".join("+" if flag else "-" for flag in kept) or "all there was"


class Workload:
    """Draws operations from a seed and carries them out on an Explorer's disk, keeping its promise up to date."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.promise = explorer.promise
        self.rng = explorer.rng
        self.term = 1
        self.log_time = 1_700_000_000_000_000
        self.storage = open_on(explorer.disk)
        self.promise.exists = True
        self.operations: list[tuple[int, Callable[[], None]]] = [
            (8, self.append),
            (8, self.append_and_sync),
            (1, self.damage),
            (2, self.append_large),
            (4, self.sync),
            (3, self.truncate),
            (4, self.save_hard_state),
            (2, self.compact),
            (1, self.reset),
            (2, self.append_to_full_disk),
            (1, self.set_cluster_id),
            (2, self.restart),
        ]

    def run(self, operations: int) -> None:
        """Each operation once, then so many more, drawn; ends at the first broken promise."""
        weights = [weight for weight, _ in self.operations]
        drawn = self.rng.choices(self.operations, weights, k=operations)
        violations = self.explorer.tally.violations
        try:
            for _, operation in [*self.operations, *drawn, (1, self.sync)]:
                operation()
                if violations:
                    return
            self.explorer.at_call("the end")
        except StorageError as error:
            violations.append(f"without any crash: {type(error).__name__}: {error}")

    def _batch(self, entries: int, max_bytes: int) -> EntryBatch:
        first_index = self.storage.log.last_index + 1
        runs, payloads = [], []
        for number in range(entries):
            self.term += self.rng.random() < 0.1
            self.log_time += self.rng.randrange(3)
            if self.rng.random() < 0.05:
                payload = encode_configuration(Configuration(f"c{first_index + number}"))
            else:
                payload = bytes([COMMAND]) + self.rng.randbytes(self.rng.randrange(max_bytes))
            runs.append(Run(1, self.term, self.log_time))
            payloads.append(payload)
        return EntryBatch(first_index, runs, payloads)

    def _append(self, batch: EntryBatch) -> None:
        """The batch may be there, in part too, from the first call on."""
        del self.promise.entries[batch.first_index - 1 :]
        stamps = [(run.term, run.log_time) for run in batch.runs]
        self.promise.entries += [Entry(*stamp, payload) for stamp, payload in zip(stamps, batch.payloads, strict=True)]
        self.storage.log.append(batch)

    def append(self) -> None:
        self._append(self._batch(self.rng.randrange(1, 4), 150))

    def append_and_sync(self) -> None:
        self._append(self._batch(self.rng.randrange(1, 12), 200))
        self.sync()

    def damage(self) -> None:
        """Of a disk whose newest segment ends with a batch."""
        self._append(self._batch(2, 200))
        position = self.storage.log._open.position
        self.sync()
        self.explorer.damage(self.storage, range(self.storage.log._open.table.positions[-1], position))

    def append_large(self) -> None:
        self._append(self._batch(2, 9000))

    def sync(self) -> None:
        self.storage.log.sync()
        self.promise.durable_index = self.storage.log.last_index

    def truncate(self) -> None:
        log, promise = self.storage.log, self.promise
        if log.last_index < log.first_index:
            return
        index = self.rng.randint(max(log.first_index, log.last_index - 15), log.last_index)
        promise.truncated_index = index - 1
        log.truncate_from(index)
        del promise.entries[index - 1 :]
        promise.durable_index, promise.truncated_index = index - 1, -1

    def save_hard_state(self) -> None:
        self.term += 1
        hard_state = HardState(self.term, self.rng.choice(["", "n1", "n2"]))
        self.promise.hard_states = (*self.promise.hard_states, hard_state)
        self.storage.hard_state.save(hard_state)
        self.promise.hard_states = (hard_state,)

    def compact(self) -> None:
        """To any index: it need not end a segment."""
        log, promise = self.storage.log, self.promise
        if promise.durable_index <= log.base.index:
            return
        index = self.rng.randint(log.first_index, promise.durable_index)
        entry = promise.entries[index - 1]
        base = LogBase(index, entry.term, entry.log_time)
        promise.bases = (log.base, base)
        log.compact_to(base)
        promise.bases = (base,)

    def reset(self) -> None:
        """The log is replaced by a base, within it or beyond it; sometimes the disk is too full for that."""
        log, promise = self.storage.log, self.promise
        self.term += 1
        base = LogBase(max(log.base.index, log.last_index + self.rng.randint(-9, 9)), self.term, self.log_time)
        promise.reset_to = base
        if self.rng.random() < 0.2:
            self.explorer.disk.room = self.rng.randrange(4)
        try:
            log.reset_to(base)
        except DiskFull:
            promise.reset_to = None
            return
        finally:
            self.explorer.disk.room = None
        promise.bases, promise.reset_to = (base,), None
        promise.entries = [Entry(0, 0, b"gone")] * base.index
        promise.durable_index = base.index

    def append_to_full_disk(self) -> None:
        """The write takes some sectors and finds no room; the log is as it was, and goes on later."""
        batch = self._batch(3, 1200)
        before = self.storage.log.last_index
        self.explorer.disk.room = self.rng.randrange(4)
        try:
            self._append(batch)
        except DiskFull:
            if self.storage.log.last_index != before:
                self.explorer.tally.violations.append("DiskFull, but the log is not as it was")
        finally:
            self.explorer.disk.room = None

    def set_cluster_id(self) -> None:
        if not self.storage.metadata.cluster_id:
            self.promise.cluster_ids = ("", INCARNATION)
            self.storage.set_cluster_id(INCARNATION)
            self.promise.cluster_ids = (INCARNATION,)

    def restart(self) -> None:
        """The process ends, politely or not, and comes back; the power stays on."""
        self.storage.close()
        self.storage = open_on(self.explorer.disk)
        del self.promise.entries[self.storage.log.last_index :]
        self.promise.durable_index = self.storage.log.last_index


def explore(seed: int, operations: int, samples: int) -> Tally:
    """One workload from one seed, crashed everywhere."""
    explorer = Explorer(random.Random(seed), samples)
    Workload(explorer).run(operations)
    return explorer.tally


def main(arguments: list[str] | None = None, out: TextIO = sys.stdout) -> int:
    """The command. Returns the exit code: 0 where every promise held."""
    parser = argparse.ArgumentParser(
        prog="python -m raftlog.testing.crash_points", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first workload (default 0)")
    parser.add_argument("--rounds", type=int, default=8, help="workloads, each with its own seed (default 8)")
    parser.add_argument("--operations", type=int, default=60, help="of each workload (default 60)")
    parser.add_argument("--samples", type=int, default=40, help="subsets drawn where there are many (default 40)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object instead of text")
    options = parser.parse_args(arguments)
    started = clock.monotonic()
    total: dict[str, int] = {}
    violations: list[str] = []
    for seed in range(options.seed, options.seed + options.rounds):
        tally = explore(seed, options.operations, options.samples)
        for name in ("calls", "states", "crash_states", "killed", "failed_syncs", "crashes_in_recovery"):
            total[name] = total.get(name, 0) + getattr(tally, name)
        for name in ("damaged", "refused"):
            total[name] = total.get(name, 0) + getattr(tally, name)
        replay = f"(python -m raftlog.testing.crash_points --seed {seed} --rounds 1 --operations {options.operations}"
        violations += [f"{found} {replay} --samples {options.samples})" for found in tally.violations]
        if not options.json:
            out.write(f"seed {seed}: {tally.states} states, {len(tally.violations)} violations\n")
            out.flush()
    seconds = round(clock.monotonic() - started, 1)
    if options.json:
        out.write(json.dumps({"ok": not violations, **total, "seconds": seconds, "violations": violations}) + "\n")
    else:
        _report(out, total, violations, seconds)
    return 1 if violations else 0


def _report(out: TextIO, total: dict[str, int], violations: list[str], seconds: float) -> None:
    for violation in violations:
        out.write(f"VIOLATION {violation}\n")
    out.write(
        f"{total['states']} crash states at {total['calls']} calls in {seconds} s: "
        f"{total['crash_states']} after power loss, {total['killed']} killed, {total['failed_syncs']} failed syncs, "
        f"{total['crashes_in_recovery']} crashes in recovery. "
        f"{total['damaged']} damaged files, {total['refused']} refused, the others whole.\n"
        f"{'No promise was broken.' if not violations else f'{len(violations)} promises were broken.'}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
