"""`raft run`: this host's node process."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.core.management.base import CommandError, CommandParser
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.utils.module_loading import import_string

import raftlog
from raftlog import conf
from raftlog.exceptions import DirectoryInUse, RaftlogError
from raftlog.log_fields import log_fields
from raftlog.management.output import Output
from raftlog.management.verbs import Verb, read_settings
from raftlog.node_process import run_node

logger = logging.getLogger("raftlog.node")


class RunVerb(Verb):
    name = "run"
    help = "Run this host's node: it keeps the log, applies it to the database, and serves the site."
    has_json = False
    epilog = """\
It serves the site's own ASGI application (ASGI_APPLICATION) at the same address, and runs until SIGTERM or Ctrl-C; a
leader then hands leadership over first. One node runs on each host; other processes (gunicorn, Celery, shell) propose
through it.

examples:
  manage.py raft run                        with the settings of RAFTLOG
  manage.py raft run --bind 0.0.0.0:8000    listen on all interfaces, whatever BIND and ADDRESS say

exit codes:
  0  stopped as asked
  1  not started: the message says what is wrong with the settings, the folder or the database
  2  stopped by itself: a disk, database or thread failed; the last lines of the log say which
  3  this node was removed from the cluster (to come back: empty its folder, start it, and `raft add` it)
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--bind", metavar="HOST:PORT", help="where to listen, instead of BIND or ADDRESS")

    def run(self, options: dict[str, Any], output: Output) -> int:
        self.command.check()
        settings = read_settings()
        if options["bind"]:
            settings = dataclasses.replace(settings, bind=_parse_bind(options["bind"]))
        if settings.state_machine == "database":
            refuse_unapplied_migrations(settings.database)

        def on_ready(*_: object) -> None:
            host, port = settings.bind
            output.line(f"raftlog {raftlog.__version__}: node {settings.node_id} of cluster {settings.cluster}")
            output.line(
                f"listening on {host}:{port}, reached at {settings.address}; local socket {settings.socket_path}"
            )
            output.line(f"log in {settings.data_dir}; see the members with: manage.py raft members")

        try:
            return run_node(settings, site_application(), on_ready=on_ready, on_waiting=output.line)
        except DirectoryInUse as error:
            raise CommandError(f"{error}. Stop it first, or give this node a DATA_DIR of its own") from error
        except (RaftlogError, OSError) as error:
            if logger.hasHandlers():  # else its words would stand there twice
                fields = log_fields("start_refused", node=settings.node_id, reason=str(error))
                logger.critical("%s is not started: %s", settings.node_id, error, extra=fields)
            raise CommandError(f"{type(error).__name__}: {error}") from error


def site_application() -> Any:
    """The project's own ASGI application, as `raft run` serves it.

    With DEBUG on and staticfiles installed it serves those, as runserver does; with the admin installed the socket by
    which its pages follow the cluster.
    """
    path = getattr(django_settings, "ASGI_APPLICATION", None)
    application = import_string(path) if path else get_asgi_application()
    if django_settings.DEBUG and apps.is_installed("django.contrib.staticfiles"):
        from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

        if not isinstance(application, ASGIStaticFilesHandler):
            application = ASGIStaticFilesHandler(application)
    if apps.is_installed("django.contrib.admin"):
        from raftlog.admin.live import with_live

        application = with_live(application)
    return application


def refuse_unapplied_migrations(alias: str) -> None:
    """Raises CommandError where the database lacks tables that entries of the log will be applied to.

    With an ENGINE of raftlog's, migrations come through the log like everything else.
    """
    if hasattr(connections[alias], "apply_port"):
        return
    executor = MigrationExecutor(connections[alias])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    connections[alias].close()
    if plan:
        labels = ", ".join(sorted({migration.app_label for migration, _ in plan}))
        raise CommandError(
            f"{len(plan)} migrations are not applied to DATABASES[{alias!r}] ({labels}): manage.py migrate"
        )


def _parse_bind(value: str) -> tuple[str, int]:
    try:
        return conf.parse_bind(value)
    except ValueError as error:
        raise CommandError(f"--bind {value}: {error}") from error


VERB = RunVerb
