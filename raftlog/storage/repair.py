"""Repair of a damaged folder: what is lost is cut off and noted, so that the node may fetch it again from the others.

    plan_repair()   reads everything and says what would be done; changes nothing
    carry_out()     does it

After "Protocol-Aware Recovery for Consensus-Based Storage" (FAST '18): a node must not go on as if it had never had
what it lost, since it may have acknowledged it. So first of all, durably, the metadata say that the folder is being
repaired; a node that opens such a folder neither votes nor counts (consensus/recovery.py), up to finish_repair().

The order, by which a crash at any point leaves a folder that is refused and can be repaired again, or is repaired:

1. the metadata get `repairing`;
2. a damaged hard state is copied aside and replaced: by the newest slot that is whole, and no term below the log's;
3. segments after the first damage are moved aside, the newest first;
4. the damaged segment is copied aside and replaced by one that holds its records before the damage; where nothing
   after the log's base is left, the log begins anew after it instead.

The log is cut before the first damaged entry and before every index at which anything that can still be read behind
the damage begins: a truncation there made the entries from that index on void. Nothing is deleted: what is cut off
stands in the folder `damaged-…` beside the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from raftlog.consensus.configuration import Configuration, decode_configuration
from raftlog.consensus.state import HardState
from raftlog.exceptions import LogDamaged
from raftlog.storage.base import BaseRecord, open_base
from raftlog.storage.filesystem import SECTOR_BYTES, File, FileSystem
from raftlog.storage.hard_state import decode_slot, encode_slot
from raftlog.storage.layout import (
    HARD_STATE,
    METADATA,
    TEMPORARY,
    Repairing,
    load_metadata,
    parse_segment_name,
    save_metadata,
    segment_name,
)
from raftlog.storage.record import TRUNCATION, frame
from raftlog.storage.recovery import load_log
from raftlog.storage.segment import create_segment, publish_segment
from raftlog.storage.segmented_log import SEGMENT_BYTES
from raftlog.storage.verify import Finding, RecordSeen, check_directory, check_segment

_COPY_BYTES: Final = 1 << 20
_SPARE_SECTORS: Final = 16

REPLACE: Final = (
    "What is left cannot be repaired. Start this node with an empty DATA_DIR and an empty database, and then, on any "
    'host, `manage.py raft replace` it ("Change the members" in docs/operations.md)'
)


@dataclass(slots=True)
class RepairPlan:
    """What is wrong with a folder, and what carry_out() would do about it."""

    directory: str
    findings: list[Finding] = field(default_factory=list)
    # Why it cannot be repaired, and what to do instead; "": it can be.
    impossible: str = ""
    # The first entry that is cut off, 0: none; and the last one, with its term, that anything readable names.
    cut_from: int = 0
    promised_index: int = 0
    promised_term: int = 0
    # The newest members that anything readable names.
    configuration: Configuration = field(default_factory=Configuration)
    # The new hard state, None: the old one is whole.
    hard_state: HardState | None = None
    # Names of segments that are moved aside; and the one that is replaced by its first `keep_sectors` sectors.
    moved: list[str] = field(default_factory=list)
    replaced: str = ""
    keep_sectors: int = 0
    # Not 0: nothing of the log is left, and it begins anew after its base, in a segment of this sequence.
    begins_anew: int = 0
    # The replaced segment ends in a truncation: entries from `cut_from` on which its records hold are void.
    truncates: bool = False

    @property
    def is_needed(self) -> bool:
        return bool(self.findings)


def plan_repair(filesystem: FileSystem, directory: str) -> RepairPlan:
    """Read everything and say what would be done. The caller holds the folder's lock. Raises OSError."""
    plan = RepairPlan(directory)
    plan.findings = [seen for seen in check_directory(filesystem, directory) if isinstance(seen, Finding)]
    damaged = {finding.path for finding in plan.findings}
    if f"{directory}/{METADATA}" in damaged:
        plan.impossible = f"The file that says whose folder this is, {METADATA}, is lost. {REPLACE}"
        return plan
    names = sorted(filter(None, map(parse_segment_name, filesystem.list_directory(directory))))
    try:
        record = open_base(filesystem, directory, first_sequence=names[0][0] if names else 1, writable=False).record
    except LogDamaged as error:
        plan.impossible = f"{error.path}: {error.what}. {REPLACE}"
        return plan
    plan.configuration = record.base.configuration
    _plan_log(filesystem, plan, names, record)
    if f"{directory}/{HARD_STATE}" in damaged:
        plan.hard_state = _best_hard_state(filesystem, directory, max(plan.promised_term, record.base.term))
    if plan.is_needed and not (plan.cut_from or plan.moved) and plan.hard_state is None:
        plan.impossible = f"The files do not belong together. {REPLACE}"
    return plan


def _plan_log(filesystem: FileSystem, plan: RepairPlan, names: list[tuple[int, int]], record: BaseRecord) -> None:
    """Find where the log is to be cut."""
    needed = [name for name in names if name[0] >= record.oldest]
    unneeded = [segment_name(*name) for name in names if name[0] < record.oldest]
    damaged = {finding.path for finding in plan.findings}
    if any(f"{plan.directory}/{name}" in damaged for name in unneeded):
        plan.moved += unneeded
    cut = _Cut(filesystem, plan, record.base.index)
    if not needed or needed[0][0] != record.oldest:
        cut.cut_from = record.base.index + 1  # the beginning is missing
    for name in needed:
        cut.look_at(*name, is_newest=name == needed[-1])
    plan.cut_from = cut.cut_from
    plan.truncates = 0 < cut.cut_from <= cut.last_index
    is_lost = bool(plan.findings) and not needed
    if is_lost or (plan.cut_from and (plan.cut_from <= record.base.index or not plan.replaced)):
        plan.moved += [plan.replaced] if plan.replaced else []
        plan.moved.sort()
        plan.replaced, plan.truncates = "", False
        plan.cut_from = record.base.index + 1
        plan.begins_anew = max([record.oldest, *(sequence + 1 for sequence, _ in names)])


class _Cut:
    """Goes through the segments in order."""

    def __init__(self, filesystem: FileSystem, plan: RepairPlan, last_index: int) -> None:
        self.cut_from = 0
        # The last entry before the damage.
        self.last_index = last_index
        self._filesystem = filesystem
        self._plan = plan
        # Sequence of the segment that should come next; name of the last one before the damage, and its sectors in use.
        self._expected = 0
        self._before = ("", 0)

    def look_at(self, sequence: int, first_index: int, *, is_newest: bool) -> None:
        plan = self._plan
        name = segment_name(sequence, first_index)
        path = f"{plan.directory}/{name}"
        seen = list(check_segment(self._filesystem, path, sequence, first_index, is_newest=is_newest))
        records = [each for each in seen if isinstance(each, RecordSeen)]
        bad = [each for each in seen if isinstance(each, Finding)]
        for record in records:
            plan.promised_index = max(plan.promised_index, record.header.last_index)
            plan.promised_term = max(plan.promised_term, record.last_term)
            if record.configuration:
                plan.configuration = decode_configuration(record.configuration)
        begins = [record.header.first_index for record in records]
        if self.cut_from:
            plan.moved.append(name)
            self.cut_from = min([self.cut_from, first_index, *begins])
            return
        if self._expected and sequence != self._expected:  # one is missing: the one before goes on as the newest
            plan.moved.append(name)
            plan.replaced, plan.keep_sectors = self._before
            self.cut_from = min([self.last_index + 1, first_index, *begins])
            return
        self._expected = sequence + 1
        kept = records[: _count_before(records, bad)] if bad else records
        self.last_index = kept[-1].header.last_index if kept else first_index - 1
        self._before = name, 1 + sum(record.header.sectors for record in kept)
        if bad:
            plan.replaced, plan.keep_sectors = self._before
            self.cut_from = min([self.last_index + 1, *begins[len(kept) :]])


def _count_before(records: list[RecordSeen], bad: list[Finding]) -> int:
    """How many records stand before the first damage; damage of the first sector costs none of them."""
    first_bad = min((finding.offset for finding in bad if finding.offset), default=1 << 62)
    return sum(record.header.position * SECTOR_BYTES < first_bad for record in records)


def _best_hard_state(filesystem: FileSystem, directory: str, log_term: int) -> HardState:
    """The newest slot that is whole, in no term below the log's."""
    path = f"{directory}/{HARD_STATE}"
    slots = []
    if filesystem.exists(path):
        file = filesystem.open(path)
        for number in range(2):
            slot = decode_slot(file.pread(SECTOR_BYTES, number * SECTOR_BYTES))
            if slot is not None:
                slots.append(slot)
        file.close()
    newest = max(slots, key=lambda slot: slot[0])[1] if slots else HardState()
    return newest if newest.current_term >= log_term else HardState(log_term, "")


def carry_out(filesystem: FileSystem, plan: RepairPlan, *, recovery_id: int, since: str, aside: str) -> None:
    """Do what the plan says. The caller holds the folder's lock.

    Args:
        recovery_id: drawn at random, not 0.
        since: when, for people.
        aside: name of the folder, inside this one, for what is set aside.

    Raises:
        ValueError: the plan is not needed, or cannot be carried out.
        LogDamaged: there is more damage than the plan knew of: plan again.
        OSError: call both again.
    """
    if plan.impossible or not plan.is_needed:
        raise ValueError(plan.impossible or f"nothing is wrong with {plan.directory}")
    directory = plan.directory
    metadata = load_metadata(filesystem, directory)
    repairing = Repairing(recovery_id, since, plan.cut_from, plan.promised_index, plan.promised_term)
    if metadata.repairing is not None:
        repairing = _joined(repairing, metadata.repairing)
    save_metadata(filesystem, directory, msgspec.structs.replace(metadata, repairing=repairing))
    filesystem.make_directory(f"{directory}/{aside}")
    filesystem.sync_directory(directory)
    if plan.hard_state is not None:
        _replace_hard_state(filesystem, directory, aside, plan.hard_state)
    for name in reversed(plan.moved):
        filesystem.rename(f"{directory}/{name}", f"{directory}/{aside}/{name}")
        filesystem.sync_directory(f"{directory}/{aside}")
        filesystem.sync_directory(directory)
    if plan.replaced:
        _replace_segment(filesystem, plan, aside)
    if plan.begins_anew:
        _begin_anew(filesystem, directory, plan.begins_anew)
    load_log(filesystem, directory, writable=False).open_segment.file.close()


def _joined(new: Repairing, before: Repairing) -> Repairing:
    """A repair of a folder that is being repaired: what was lost before is not there again."""
    cuts = [repairing.cut_from for repairing in (new, before) if repairing.cut_from]
    return msgspec.structs.replace(
        new,
        cut_from=min(cuts, default=0),
        promised_index=max(new.promised_index, before.promised_index),
        promised_term=max(new.promised_term, before.promised_term),
    )


def _replace_hard_state(filesystem: FileSystem, directory: str, aside: str, hard_state: HardState) -> None:
    path = f"{directory}/{HARD_STATE}"
    if filesystem.exists(path):
        _copy_aside(filesystem, directory, aside, HARD_STATE)
    file = _create_anew(filesystem, path + TEMPORARY, 2 * SECTOR_BYTES)
    try:
        file.pwrite(encode_slot(0, hard_state) + encode_slot(1, hard_state), 0)
        file.sync()
    finally:
        file.close()
    filesystem.rename(path + TEMPORARY, path)
    filesystem.sync_directory(directory)


def _replace_segment(filesystem: FileSystem, plan: RepairPlan, aside: str) -> None:
    """By a segment of the same name with the records before the damage, and a truncation where they reach too far."""
    directory = plan.directory
    parsed = parse_segment_name(plan.replaced)
    assert parsed is not None
    sequence, first_index = parsed
    oldest = open_base(filesystem, directory, first_sequence=1, writable=False).record.oldest
    _copy_aside(filesystem, directory, aside, plan.replaced)
    source = filesystem.open(f"{directory}/{plan.replaced}")
    try:
        sectors = max(source.size() // SECTOR_BYTES, plan.keep_sectors + _SPARE_SECTORS)
        file = create_segment(filesystem, directory, sequence, first_index, oldest, -(-sectors // 8) * 8)
        try:
            _copy(source, file, SECTOR_BYTES, plan.keep_sectors * SECTOR_BYTES)
            if plan.truncates:
                position = plan.keep_sectors
                mark = frame(
                    TRUNCATION, [], 0, sequence=sequence, position=position, synced=1, first_index=plan.cut_from
                )
                file.pwrite(mark, position * SECTOR_BYTES)
            file.sync()
        finally:
            file.close()
    finally:
        source.close()
    publish_segment(filesystem, directory, sequence, first_index)


def _begin_anew(filesystem: FileSystem, directory: str, sequence: int) -> None:
    base = open_base(filesystem, directory, first_sequence=1, writable=True)
    try:
        record = base.record
        base.save(BaseRecord(record.base, sequence))
    finally:
        base.close()
    first_index = record.base.index + 1
    create_segment(filesystem, directory, sequence, first_index, sequence, SEGMENT_BYTES // SECTOR_BYTES).close()
    publish_segment(filesystem, directory, sequence, first_index)


def _copy_aside(filesystem: FileSystem, directory: str, aside: str, name: str) -> None:
    source = filesystem.open(f"{directory}/{name}")
    try:
        target = _create_anew(filesystem, f"{directory}/{aside}/{name}", source.size())
        try:
            _copy(source, target, 0, source.size())
            target.sync()
        finally:
            target.close()
    finally:
        source.close()
    filesystem.sync_directory(f"{directory}/{aside}")


def _create_anew(filesystem: FileSystem, path: str, size: int) -> File:
    """A new file, in the place of what a repair that was interrupted has left there."""
    if filesystem.exists(path):
        filesystem.remove(path)
    return filesystem.create(path, size)


def _copy(source: File, target: File, start: int, stop: int) -> None:
    for offset in range(start, stop, _COPY_BYTES):
        target.pwrite(source.pread(min(_COPY_BYTES, stop - offset), offset), offset)
