"""`raft recover`: go on after a majority of the voters is gone for good."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser

from raftlog.asking import fetch_status
from raftlog.conf import Settings
from raftlog.disaster.emptying import set_aside
from raftlog.disaster.recovery import Plan, carry_out, make_plan
from raftlog.disaster.survivors import Survivor, SurvivorError, encode_report, read, read_folder
from raftlog.exceptions import DirectoryInUse, RaftlogError
from raftlog.management.members import confirm
from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb, read_settings
from raftlog.node_process import is_listening


class RecoverVerb(Verb):
    name = "recover"
    help = "After a majority is gone for good: begin a new cluster with the log of a survivor."
    epilog = """\
Only for hosts that will never come back: with a majority, start it instead. Stop the nodes of all survivors first.
Without --execute nothing is changed: it shows what each survivor has, what may be lost, and what would be done.

The survivor with the most becomes the only voter, under a new cluster id; nodes of the cluster before, should they come
back, are refused for that id. Then the other survivors (and later those that come back) join with an empty folder.

examples:
  manage.py raft recover --report > b.json                 on b: what its folder has; copy it to a
  manage.py raft recover --survivor b.json                 on a: a dry run
  manage.py raft recover --survivor b.json --execute       on a: asks, then does it; then `raft run`
  manage.py raft recover --rejoin                          on b: sets folder and database aside; then `raft run`
  manage.py raft add b ws://10.0.0.2:8000                  on a

exit codes:
  0  shown (without --execute), or done
  1  refused, with the reason: nothing was changed
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--survivor",
            action="append",
            default=[],
            metavar="PATH",
            help="another survivor: its DATA_DIR or a copy of it, or a report of --report; may be repeated",
        )
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--report", action="store_true", help="print what this node's folder has, as JSON")
        what.add_argument("--execute", action="store_true", help="do it, after asking")
        what.add_argument(
            "--rejoin", action="store_true", help="set this host's folder and database aside, so that it can be added"
        )
        parser.add_argument(
            "--noinput", "--yes", action="store_true", dest="noinput", help="do not ask before it is done"
        )
        parser.add_argument(
            "--timeout", type=float, default=2.0, help="seconds to wait whether a lost member answers (default: 2)"
        )

    def run(self, options: dict[str, Any], output: Output) -> int:
        settings = read_settings()
        if is_listening(settings):
            raise CommandError(f"the node of this host ({settings.node_id}) is running: stop it first")
        try:
            if options["rejoin"]:
                return rejoin(settings, output, noinput=options["noinput"])
            local = read_folder(settings.data_dir)
            if options["report"]:
                output.stream.write(encode_report(local) + "\n")
                return 0
            plan = make_plan(local, [read(path) for path in options["survivor"]])
            refuse_if_alive(plan, settings, options["timeout"])
            return self.recover(plan, settings, options, output)
        except DirectoryInUse as error:
            raise CommandError(f"{error}: stop it first") from error
        except (RaftlogError, OSError) as error:
            raise CommandError(str(error)) from error

    def recover(self, plan: Plan, settings: Settings, options: dict[str, Any], output: Output) -> int:
        show(plan, output)
        answer = as_data(plan) | {"done": False}
        if not options["execute"]:
            output.line("Nothing was changed. With --execute this is done.", style="bold")
        else:
            lost = ", ".join(plan.lost)
            confirm(output, f"Begin a new cluster without {lost}, for good?", noinput=options["noinput"])
            configuration = carry_out(plan, settings)
            answer |= {"done": True, "cluster_id": configuration.cluster_id}
            output.line(f"Done: the new cluster's id is {configuration.cluster_id}.", style="green")
        for line in next_steps(plan, settings):
            output.line(line)
        output.result(answer)
        return 0


def rejoin(settings: Settings, output: Output, *, noinput: bool) -> int:
    question = f"Set the folder and the database of {settings.node_id} aside, so that it can join with nothing?"
    confirm(output, question, noinput=noinput)
    notes: list[str] = []
    set_aside(settings, notes.append)
    for note in notes:
        output.line(note)
    output.line(
        f"Now start it with `manage.py raft run`; then, on a member: {how_to_add(settings.node_id)}", style="green"
    )
    output.result({"node_id": settings.node_id, "done": True, "notes": notes})
    return 0


def refuse_if_alive(plan: Plan, settings: Settings, timeout: float) -> None:
    """Raises SurvivorError where a member that is taken for lost answers."""
    for node_id in plan.lost:
        address = plan.configuration.servers[node_id].address
        try:
            status = fetch_status(settings, address, timeout=timeout)
        except (RaftlogError, OSError):
            continue
        if status["node_id"] == node_id and status["cluster_id"] == plan.configuration.cluster_id:
            raise SurvivorError(
                f"{node_id} is not gone: it answers at {address}. Start this node, too, and see `raft status`; or stop "
                "it for good, or name it as a --survivor"
            )


def show(plan: Plan, output: Output) -> None:
    survivors = [plan.survivor, *plan.others]
    rows = [
        (each.node_id, each.last_index, each.last_term, when(each.last_log_time), each.current_term, part(plan, each))
        for each in survivors
    ]
    columns = ["survivor", "last entry", "of term", "log time", "has seen term", "then"]
    output.show(table(columns, rows, title=f"cluster {plan.survivor.cluster}, id {plan.configuration.cluster_id}"))
    output.line(f"lost for good: {', '.join(plan.lost)}")
    output.line(what_may_be_lost(plan), style="yellow" if plan.may_lose else None)


def what_may_be_lost(plan: Plan) -> str:
    if not plan.may_lose:
        return "Nothing that was acknowledged is lost: no majority was without one of these survivors."
    survivor = plan.survivor
    text = (
        f"May be lost: whatever was acknowledged after entry {survivor.last_index}, from "
        f"{when(survivor.last_log_time)} on. {', '.join(plan.lost)} could commit without these survivors."
    )
    if plan.later_term:
        text += f" An election of term {plan.later_term} was seen later, so somebody may have led and written since."
    return text


def part(plan: Plan, survivor: Survivor) -> str:
    return "the only voter at first" if survivor is plan.survivor else "joins with an empty folder"


def next_steps(plan: Plan, settings: Settings) -> list[str]:
    steps = [f"on {plan.survivor.node_id}: manage.py raft run"]
    for survivor in plan.others:
        steps.append(f"on {survivor.node_id}: manage.py raft recover --rejoin; manage.py raft run")
        steps.append(f"on {plan.survivor.node_id}: {how_to_add(survivor.node_id)}")
    steps.append(f"{', '.join(plan.lost)}, should they come back, are refused: `raft recover --rejoin` there, too,")
    steps.append("  before their nodes are started. Together they could still serve whoever reaches only them.")
    return ["Then:", *steps]


def how_to_add(node_id: str) -> str:
    return f"manage.py raft add {node_id} ADDRESS"


def when(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if microseconds else "–"


def as_data(plan: Plan) -> dict[str, Any]:
    return {
        "survivor": msgspec.to_builtins(plan.survivor),
        "others": [msgspec.to_builtins(other) for other in plan.others],
        "lost": list(plan.lost),
        "may_lose": plan.may_lose,
        "later_term": plan.later_term,
    }


VERB = RecoverVerb
