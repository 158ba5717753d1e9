"""`raft flags`: what the flags are, and setting them."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.db.utils import Error as DatabaseError

from raftlog.management.output import Output, table
from raftlog.management.verbs import Verb

LABEL = "raftlog_flags"


class FlagsVerb(Verb):
    name = "flags"
    help = "Show the flags of raftlog.contrib.flags, set one, or show who changed it."
    epilog = """\
A value is typed as its flag's type wants it: true, 3, text as it is, JSON. What is set holds on all nodes within 0.1 s
after they have applied it.

examples:
  manage.py raft flags
  manage.py raft flags set new_checkout true --percentage 10
  manage.py raft flags set page_size 50 --by ada
  manage.py raft flags unset new_checkout
  manage.py raft flags history new_checkout

exit codes:
  0  shown or done
  1  no such flag, a value of another type, the app is not installed, or nothing could be written
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", nargs="?", default="list", choices=["list", "set", "unset", "history"])
        parser.add_argument("flag", nargs="?", default="", metavar="NAME")
        parser.add_argument("value", nargs="?", metavar="VALUE")
        parser.add_argument("--percentage", type=float, help="on for this share of users, 0 to 100")
        parser.add_argument("--by", default="", help="who does it, for the history (default: the system's user)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        if not apps.is_installed("raftlog.contrib.flags"):
            raise CommandError('add "raftlog.contrib.flags" to INSTALLED_APPS, and migrate')
        action, name = options["action"], options["flag"]
        if (action in ("set", "unset")) != bool(name) and action != "history":
            raise CommandError(f"raft flags {action}: " + ("give a NAME" if not name else "takes no NAME"))
        try:
            if action in ("set", "unset"):
                _change(action, options)
            if action == "history":
                return _show_history(name, output)
            return _show(output, name)
        except DatabaseError as error:
            raise CommandError(f"nothing was changed or shown: {error}") from error


def _change(action: str, options: dict[str, Any]) -> None:
    from raftlog.contrib import flags
    from raftlog.contrib.flags.declared import definition

    name, text, by = options["flag"], options["value"], options["by"] or _system_user()
    try:
        if action == "unset":
            flags.unset(name, by=by)
        elif text is None and options["percentage"] is None:
            raise CommandError(f"raft flags set {name}: give a VALUE, or --percentage")
        else:
            value = True if text is None else definition(name).parse(text)
            flags.set(name, value, percentage=options["percentage"], by=by)
    except (flags.UnknownFlag, TypeError, ValueError) as error:
        raise CommandError(str(error)) from error


def _system_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""


def _show(output: Output, only: str = "") -> int:
    from raftlog.contrib.flags.declared import definitions
    from raftlog.contrib.flags.models import Flag

    set_flags = {row.name: row for row in Flag.objects.all()}
    known = {found.name: found for found in definitions()}
    found = []
    for name in sorted({*known, *set_flags}):
        definition, row = known.get(name), set_flags.get(name)
        found.append(
            {
                "name": name,
                "value": row.value if row is not None else known[name].default,
                "percentage": row.percentage if row is not None else None,
                "is_set": row is not None,
                "default": definition.default if definition else None,
                "type": definition.kind if definition else None,
                "help": definition.help if definition else "not defined in this code",
            }
        )
    found = [each for each in found if only in ("", each["name"])]
    output.result({"flags": found})
    columns = ["name", "value", "percentage", "is_set", "default", "type", "help"]
    rows = [[_text(each[column], column) for column in columns] for each in found]
    output.show(table(["flag", "value", "%", "set", "default", "type", "for"], rows))
    return 0


def _text(value: Any, column: str) -> Any:
    return repr(value) if column in ("value", "default") else value


def _show_history(name: str, output: Output) -> int:
    from raftlog.contrib import flags

    changes = [
        {"at": each.at.isoformat(), "name": each.name, "by": each.by, "old": each.old, "new": each.new}
        for each in flags.history(name)
    ]
    output.result({"changes": changes})
    output.show(table(["at", "flag", "by", "from", "to"], [[str(value) for value in c.values()] for c in changes]))
    return 0


VERB = FlagsVerb
