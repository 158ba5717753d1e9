"""`raft metrics`: what Prometheus scrapes, printed."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from raftlog.asking import ask
from raftlog.exceptions import RaftlogError
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings


class MetricsVerb(Verb):
    name = "metrics"
    help = "Print the metrics of this host's node, in Prometheus's text format."
    has_json = False
    epilog = """\
The same that raftlog.urls serves as metrics (docs/reference/metrics.md).

examples:
  manage.py raft metrics
  manage.py raft metrics > /var/lib/node_exporter/raftlog.prom      by cron, for the textfile collector

exit codes:
  0  printed
  1  the node does not answer
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--timeout", type=float, default=2.0, help="seconds to wait for the node (default: 2)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        try:
            text = ask(read_settings(), "metrics", timeout=options["timeout"])
        except (RaftlogError, OSError) as error:
            raise CommandError(f"the node does not answer: {error}") from error
        output.line(text.rstrip())
        return 0


VERB = MetricsVerb
