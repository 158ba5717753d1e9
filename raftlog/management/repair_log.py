"""`raft repair`: a log that is damaged is cut before the damage; the node then fetches what it has lost."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError

from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.exceptions import DirectoryInUse, RaftlogError, StorageError
from raftlog.management.checking import finding_as_data
from raftlog.management.members import confirm
from raftlog.management.output import Output
from raftlog.storage.filesystem import FileSystem, RealFileSystem
from raftlog.storage.layout import LOCK, load_metadata
from raftlog.storage.repair import RepairPlan, carry_out, plan_repair

DONE, DAMAGED, IMPOSSIBLE = 0, 1, 2
WAY_OUT = (
    "No other server has what is lost, so it cannot be fetched again. The database has what was applied: go on with it "
    "(`manage.py raft leave`, then `raft init --adopt`), or restore the last backup (`manage.py raft restore`)"
)


def repair_log(settings: Settings, options: Mapping[str, Any], output: Output) -> int:
    """What `raft repair` does without --database; returns the exit code."""
    directory, filesystem = os.fspath(settings.data_dir), RealFileSystem()
    if not os.path.isdir(directory):
        raise CommandError(f"{directory} is not there: this host has no log to repair")
    try:
        lock = filesystem.lock(f"{directory}/{LOCK}")
    except DirectoryInUse as error:
        raise CommandError(f"{error}. Stop it first") from error
    try:
        plan = plan_repair(filesystem, directory)
        return _go_on(filesystem, plan, settings, options, output)
    except (OSError, StorageError) as error:
        raise CommandError(f"{error}. Call it again: what it has done so far is kept") from error
    finally:
        lock.release()


def _go_on(
    filesystem: FileSystem, plan: RepairPlan, settings: Settings, options: Mapping[str, Any], output: Output
) -> int:
    report = as_data(plan)
    if not plan.is_needed:
        repairing = load_metadata(filesystem, plan.directory).repairing
        report["repairing"] = repairing is not None
        output.result({**report, "done": False})
        output.line(f"{plan.directory}: nothing is damaged", style="green")
        if repairing is not None:
            output.line(f"It was repaired ({repairing.since}): start it, and it fetches what it lost.")
        return DONE
    show(plan, output)
    others = addresses_of_others(plan, settings)
    if not others and not plan.impossible:
        plan.impossible = report["impossible"] = WAY_OUT
    if plan.impossible:
        output.result({**report, "done": False})
        output.line(plan.impossible, style="red")
        return IMPOSSIBLE
    if not options["execute"]:
        output.result({**report, "done": False})
        output.line(leader_in_words(settings, others, options["timeout"]))
        output.line("Nothing was changed. Do it with: manage.py raft repair --execute")
        return DAMAGED
    confirm(output, f"Repair {plan.directory} as shown?", noinput=options["noinput"])
    now = datetime.now(UTC)
    aside = f"damaged-{now:%Y%m%d-%H%M%S}"
    carry_out(
        filesystem,
        plan,
        recovery_id=secrets.randbits(62) + 1,
        since=now.isoformat(timespec="seconds"),
        aside=aside,
    )
    output.result({**report, "done": True, "aside": f"{plan.directory}/{aside}"})
    output.line(f"Repaired; what was damaged is kept in {plan.directory}/{aside}.", style="green")
    output.line("Start this node (manage.py raft run): it votes and counts again once it has what it lost.")
    return DONE


def addresses_of_others(plan: RepairPlan, settings: Settings) -> list[str]:
    """Of the newest members that the log names, as far as it can be read; else of the first ones."""
    members = {node_id: server.address for node_id, server in plan.configuration.servers.items()} or settings.members
    return [address for node_id, address in members.items() if node_id != settings.node_id]


def as_data(plan: RepairPlan) -> dict[str, Any]:
    return {
        "directory": plan.directory,
        "findings": [finding_as_data(finding) for finding in plan.findings],
        "cut_from": plan.cut_from or None,
        "promised_index": plan.promised_index,
        "loses_term_and_vote": plan.hard_state is not None,
        "impossible": plan.impossible,
    }


def show(plan: RepairPlan, output: Output) -> None:
    for finding in plan.findings:
        output.line(str(finding), style="red")
    if plan.begins_anew:
        output.line(f"Lost here: the whole log, from entry {plan.cut_from} on; the other servers are asked for it.")
    elif plan.cut_from > plan.promised_index:
        output.line(f"No entry is known to be lost: the log ends at {plan.promised_index}.")
    elif plan.cut_from:
        output.line(f"Lost here: entries {plan.cut_from}-{plan.promised_index}, which the other servers are asked for.")
    if plan.hard_state is not None:
        output.line(f"Lost here: perhaps a vote; known is term {plan.hard_state.current_term}.")


def leader_in_words(settings: Settings, others: list[str], timeout: float) -> str:
    """Whether there is a leader to fetch from, which is needed afterwards, not now."""
    for address in others:
        try:
            status = fetch_status(settings, address, timeout=timeout)
        except (RaftlogError, OSError):
            continue
        if status["leader_id"] not in ("", settings.node_id):
            return f"{status['leader_id']} leads: what is lost can be fetched again."
    return "No leader answers now: what is lost is fetched once the other servers have one."
