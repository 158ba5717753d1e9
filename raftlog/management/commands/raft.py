"""`manage.py raft VERB`: finds the verbs and hands over."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser, DjangoHelpFormatter

from raftlog.management.output import Output
from raftlog.management.verbs import Verb, find_verbs


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""


class Command(BaseCommand):
    help = "Runs and looks after this host's node of the replicated log. `raft VERB --help` explains each verb."
    requires_system_checks: list[str] = []  # `run` and `check` do them; `status` works in any state

    def add_arguments(self, parser: CommandParser) -> None:
        self.verbs: dict[str, Verb] = {}
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        for verb_class in find_verbs():
            verb = self.verbs[verb_class.name] = verb_class(self)
            subparser = verbs.add_parser(
                verb.name, help=verb.help, description=verb.help, epilog=verb.epilog, formatter_class=HelpFormatter
            )
            if verb.has_json:
                subparser.add_argument("--json", action="store_true", help=verb.json_help)
            verb.add_arguments(subparser)

    def handle(self, *args: Any, **options: Any) -> None:
        output = Output(self.stdout, as_json=options.get("json", False))
        if code := self.verbs[options["verb"]].run(options, output):
            sys.exit(code)
