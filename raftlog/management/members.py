"""What the verbs that change the members share: find the leader, ask it, follow the change until it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from rich.progress import BarColumn, Progress, TextColumn

from raftlog.asking import ask, fetch_status
from raftlog.conf import Settings
from raftlog.consensus.configuration import Configuration
from raftlog.exceptions import RaftlogError
from raftlog.management.output import Output
from raftlog.runtime import clock
from raftlog.runtime.status import configuration_as_data, configuration_from_data

POLL_INTERVAL: Final = 0.1  # seconds between two looks at a change under way

EXIT_CODES = """\
exit codes:
  0  done
  1  refused, or not done in time: the message says why, and what is the case now"""


def add_change_arguments(parser: CommandParser) -> None:
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to follow the change (default: 60)")
    parser.add_argument("--noinput", "--yes", action="store_true", dest="noinput", help="do not ask before it is done")


class Cluster:
    """The cluster as its leader sees it."""

    def __init__(self, settings: Settings, *, patience: float = 10.0) -> None:
        """Raises CommandError where no leader can be reached within `patience` seconds."""
        self.settings = settings
        self._patience = patience
        self.status: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Ask whoever leads now."""
        deadline = clock.monotonic() + self._patience
        while True:
            reason = self._ask_leader()
            if not reason:
                return
            if clock.monotonic() >= deadline:
                raise CommandError(f"{reason}. `manage.py raft status` shows who can be reached.")
            clock.sleep(POLL_INTERVAL)

    def _ask_leader(self) -> str:
        """Why there is no answer of a leader; "": there is one, in `status`."""
        addresses = [None, *self.settings.members.values()]
        addresses += [member["address"] for member in self.status.get("members", {}).values()]
        reasons = []
        for address in dict.fromkeys(addresses):
            try:
                status = fetch_status(self.settings, address)
                if status["role"] != "leader" and status["leader_id"] in status["members"]:
                    status = fetch_status(self.settings, status["members"][status["leader_id"]]["address"])
            except (RaftlogError, OSError) as error:
                reasons.append(f"{address or 'the local node'}: {error}")
                continue
            if status["role"] == "leader":
                self.status = status
                return ""
            reasons.append(f"{status['node_id']} knows no leader")
        return f"No leader answers ({'; '.join(reasons)})"

    @property
    def leader_id(self) -> str:
        return str(self.status["node_id"])

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        members: dict[str, dict[str, Any]] = self.status["members"]
        return members

    @property
    def configuration(self) -> Configuration:
        return configuration_from_data(self.status["configuration"])

    def member(self, node_id: str) -> dict[str, Any]:
        """Raises CommandError where it is none."""
        if node_id not in self.members:
            raise CommandError(f"{node_id} is no member; the members are {', '.join(self.members)}")
        return self.members[node_id]

    def request(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Ask the leader. Raises CommandError with its words."""
        address = self.members[self.leader_id]["address"]
        try:
            return ask(self.settings, name, dict(arguments), target=address, timeout=self._patience)
        except RaftlogError as error:
            raise CommandError(f"{self.leader_id} refused: {error}") from error

    def change_to(self, target: Configuration) -> None:
        arguments = {"target": configuration_as_data(target), "based_on": self.status["configuration_index"]}
        self.request("change_members", arguments)

    def follow(self, target: Configuration, output: Output, timeout: float) -> None:
        """Until `target` is in force and committed. Raises CommandError where it is given up, or takes longer."""
        deadline = clock.monotonic() + timeout
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} of {task.total:,}"))
        with Progress(*columns, console=output.console, disable=not output.is_terminal, transient=True) as progress:
            task = progress.add_task("entries", total=None)
            while True:
                self.refresh()
                if self._is_done(target):
                    return
                lagging = self._lagging()
                if lagging:
                    done = self.status["last_index"] - lagging[1]
                    progress.update(task, description=lagging[0], completed=done, total=self.status["last_index"])
                if clock.monotonic() >= deadline:
                    raise CommandError(
                        f"it is not done after {timeout:g} s and goes on: {describe(self.configuration)}. "
                        "Follow it with `manage.py raft members`; `raft members --abandon` gives it up."
                    )
                clock.sleep(POLL_INTERVAL)

    def _is_done(self, target: Configuration) -> bool:
        configuration = self.configuration
        if configuration == target:
            return bool(self.status["configuration_committed"])
        if not configuration.goal_voters:
            raise CommandError(
                f"the change was given up, or another came first; now: {describe(configuration)}. The log of "
                f"{self.leader_id} says why."
            )
        return False

    def _lagging(self) -> tuple[str, int] | None:
        joining = set(self.configuration.goal_voters) - set(self.configuration.voters)
        lags = [(node_id, self.members[node_id]["lag"] or 0) for node_id in joining]
        return max(lags, key=lambda each: each[1], default=None)


def describe(configuration: Configuration) -> str:
    text = f"voters {', '.join(configuration.voters)}"
    if configuration.learners:
        text += f"; learners {', '.join(configuration.learners)}"
    if configuration.goal_voters:
        text += f"; on the way to the voters {', '.join(configuration.goal_voters)}"
    return text


def tolerance(voters: int) -> str:
    lost = (voters - 1) // 2
    return f"{voters} voters, of which {lost or 'none'} may be lost"


def refuse_lost_quorum(cluster: Cluster, target: Configuration) -> None:
    """Raises CommandError where a majority of the target's voters does not answer its leader now."""
    up = [n for n in target.voters if n == cluster.leader_id or cluster.members.get(n, {}).get("connected", True)]
    if len(up) <= len(target.voters) // 2:
        down = ", ".join(sorted(set(target.voters) - set(up)))
        raise CommandError(
            f"refused: of the voters {', '.join(target.voters)} then, {down} cannot be reached now, so nothing could "
            "be written any more. Bring them back first, or remove those instead."
        )


def confirm(output: Output, question: str, *, noinput: bool) -> None:
    """Ask on the terminal. Raises CommandError where the answer is not yes, or nobody can be asked."""
    if noinput:
        return
    if output.as_json:
        raise CommandError(f"{question} With --json nobody is asked: say --noinput.")
    try:
        answer = input(f"{question} Type 'yes' to go on: ")
    except EOFError:
        raise CommandError(f"{question} Nobody answers here: say --noinput.") from None
    if answer.strip().lower() != "yes":
        raise CommandError("nothing was changed")
