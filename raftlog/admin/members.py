"""The page "Members": who belongs to the cluster, and changing that, with the quorum before and after."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from django import forms
from django.contrib import messages
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.management.base import CommandError
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from raftlog import conf
from raftlog.admin.cluster import colours
from raftlog.admin.pages import Page, may, refuse_unless, render, report_of_cluster
from raftlog.conf import load_settings
from raftlog.consensus.configuration import Configuration, Server
from raftlog.exceptions import RaftlogError
from raftlog.log_fields import log_fields
from raftlog.management.members import Cluster, describe, refuse_lost_quorum, tolerance
from raftlog.management.raft.add import incarnation_of
from raftlog.models import Cluster as ClusterModel

logger = logging.getLogger("raftlog.admin")

PATIENCE: Final = 3.0  # seconds to find the leader
NODE_ID_LENGTH: Final = 64

# What can be done to a member -> the words for it.
ACTIONS: Final = {
    "promote": "Make {0} a voter",
    "demote": "Make {0} a learner",
    "remove": "Remove {0}",
    "replace": "Replace {0}",
    "transfer": "Hand leadership over to {0}",
    "add": "Add {0}",
    "abandon": "Give up the change that is under way",
}


class NodeForm(forms.Form):
    """A node that is to come in."""

    node_id = forms.CharField(max_length=NODE_ID_LENGTH, label="Node id", help_text="NODE_ID of the new node")
    address = forms.CharField(
        max_length=200, label="Address", help_text="its ADDRESS, ws://host:port or wss://host:port"
    )
    learner = forms.BooleanField(required=False, label="Learner", help_text="it gets everything and never votes")

    def clean_address(self) -> str:
        address = str(self.cleaned_data["address"])
        try:
            conf.parse_address(address)
        except ValueError as error:
            raise forms.ValidationError(f"{error}; write ws://host:port or wss://host:port") from error
        return address


class Change:
    """One action, before it is confirmed: what would be the case then. Raises CommandError where it cannot be."""

    def __init__(self, action: str, data: dict[str, Any]) -> None:
        if action not in ACTIONS:
            raise CommandError(f"{action!r} is no action; there are {', '.join(ACTIONS)}")
        self.action = action
        self.node_id = str(data.get("node_id", ""))
        self.cluster = Cluster(load_settings(), patience=PATIENCE)
        self.before = self.cluster.configuration
        self.target = self._target(data)
        self.title = ACTIONS[action].format(self.node_id)
        if self.target is not None:
            if not self.target.voters:
                raise CommandError("refused: nobody would be left to vote")
            if self.target == self.before:
                raise CommandError(f"it is so already: {describe(self.before)}")
            refuse_lost_quorum(self.cluster, self.target)

    def _target(self, data: dict[str, Any]) -> Configuration | None:
        """None: the members stay as they are."""
        if self.action == "abandon":
            return None
        if self.action == "add":
            return self._with_new(self.before, self.node_id, str(data["address"]), not data.get("learner"))
        member = self.cluster.member(self.node_id)
        if self.action == "transfer":
            if not member["voter"]:
                raise CommandError(f"{self.node_id} is no voter: it cannot lead")
            return None
        if self.action == "remove":
            return self.before.without(self.node_id)
        if self.action == "replace":
            by = str(data["by"])
            if by == self.node_id:
                raise CommandError(
                    f"a node that comes back under the same name takes two steps: manage.py raft replace {by} ADDRESS"
                )
            self.title = f"Replace {self.node_id} by {by}"
            return self._with_new(self.before.without(self.node_id), by, str(data["address"]), member["voter"])
        server = msgspec.structs.replace(self.before.servers[self.node_id])
        return self.before.with_server(self.node_id, server, voter=self.action == "promote")

    def _with_new(self, configuration: Configuration, node_id: str, address: str, voter: bool) -> Configuration:
        if node_id in self.before.servers:
            raise CommandError(f"{node_id} is a member already")
        incarnation = incarnation_of(self.cluster.settings, node_id, address, self.before.cluster_id)
        return configuration.with_server(node_id, Server(address, incarnation, 0), voter=voter)

    @property
    def quorum(self) -> tuple[str, str]:
        """Before, and after."""
        after = self.target or self.before
        return tolerance(len(self.before.voters)), tolerance(len(after.voters))

    @property
    def words(self) -> str:
        """What is to be done, for the history."""
        return f"{self.title}: {describe(self.target or self.before)}"

    def carry_out(self) -> None:
        """Begin it. Raises CommandError."""
        if self.action == "transfer":
            self.cluster.request("transfer", {"to": self.node_id})
        elif self.action == "abandon":
            self.cluster.request("abandon_change", {})
        elif self.target is not None:
            self.cluster.change_to(self.target)


def view(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    if request.method == "POST":
        return act(request, context)
    form = NodeForm()
    return render(request, "members", context | fragment_context() | rights(request) | {"form": form})


def fragment_context(report: dict[str, Any] | None = None) -> dict[str, Any]:
    report = report or report_of_cluster()
    configuration = report["configuration"]
    changing = bool(configuration and configuration["goal_voters"])
    return {"report": report, "changing": changing, **colours(report)}


def rights(request: HttpRequest) -> dict[str, bool]:
    return {"may_change": may(request, "change_members"), "may_transfer": may(request, "transfer_leadership")}


def act(request: HttpRequest, context: dict[str, Any]) -> HttpResponseBase:
    """Ask for confirmation, or carry out what was confirmed."""
    action = request.POST.get("action", "")
    refuse_unless(request, "transfer_leadership" if action == "transfer" else "change_members")
    data: dict[str, Any] = {name: request.POST.get(name, "") for name in ("node_id", "by", "address")}
    if action == "add":
        form = NodeForm(request.POST)
        if not form.is_valid():
            page = context | fragment_context() | rights(request) | {"form": form}
            return render(request, "members", page, status=400)
        data = form.cleaned_data
    here = request.path  # of whichever AdminSite
    if action == "replace" and not data["address"]:
        return render(request, "replace", context | {"node_id": data["node_id"], "live_path": ""})
    try:
        change = Change(action, data)
        if request.POST.get("confirmed") != "yes":
            return render(
                request, "confirm", context | {"change": change, "data": {**data, "action": action}, "live_path": ""}
            )
        begin_and_record(request, change)
    except CommandError as error:
        messages.error(request, str(error))
        return HttpResponseRedirect(here)
    messages.success(request, f"{change.title}: begun. This page follows it.")
    return HttpResponseRedirect(here)


def begin_and_record(request: HttpRequest, change: Change) -> None:
    """Carry it out, with a row in the admin's history that is there before, and is completed with how it went.

    Where this process dies in between, the row says "asked for": who wanted what is known whatever becomes of it, and
    whether it was done, the log says. Nothing is carried out without a row. Raises CommandError.
    """
    try:
        row = record(request, change, f"{change.words} (asked for)")
    except (DatabaseError, RaftlogError) as error:
        hint = "`manage.py raft remove` and its like keep no history"
        raise CommandError(f"Nothing was done: the admin's history cannot be written ({error}); {hint}.") from error
    try:
        change.carry_out()
    except CommandError as error:
        complete(row, f"{change.words} (failed: {error})")
        raise
    complete(row, f"{change.words} (begun)")


def record(request: HttpRequest, change: Change, said: str) -> Any:
    """The row, which is durable when this returns."""
    from django.contrib.admin.models import CHANGE, LogEntry  # a model: only where the app is installed

    if not request.user.is_authenticated:
        raise PermissionDenied
    return LogEntry.objects.create(
        user_id=request.user.pk,
        content_type_id=ContentType.objects.get_for_model(ClusterModel, for_concrete_model=False).pk,
        object_id=change.node_id,
        object_repr=f"member {change.node_id}" if change.node_id else "cluster",
        action_flag=CHANGE,
        change_message=said,
    )


def complete(row: Any, said: str) -> None:
    """The change is begun or refused already: a row that cannot be completed is logged, and stays "asked for"."""
    row.change_message = said
    try:
        row.save(update_fields=["change_message"])
    except (DatabaseError, RaftlogError) as error:
        logger.warning(
            "the history does not say how this went: %s: %s",
            *(said, error),
            extra=log_fields("history_incomplete", about=said, reason=str(error)),
        )


PAGE = Page("members", "Members", view, live=True)
