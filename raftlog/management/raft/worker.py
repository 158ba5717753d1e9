"""`raft worker`: runs what raftlog.contrib.queue holds."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any, Final

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.db import connections
from django.utils.module_loading import autodiscover_modules

from raftlog.management.output import Output
from raftlog.management.verbs import Verb

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)  # end a worker


class WorkerVerb(Verb):
    name = "worker"
    help = "Run the tasks of raftlog.contrib.queue: claim them, run them, record how they ended."
    json_help = "print one JSON object at the end instead: what was done"
    epilog = """\
Any number of workers may run, on any host that has a node. On SIGTERM or Ctrl-C a worker claims no more, gives back
what it has not begun, and ends once the tasks that run have ended; a second one ends it at once, and its tasks are
tried again when their claims have run out.

examples:
  manage.py raft worker
  manage.py raft worker --queues mail,default --threads 8
  manage.py raft worker --processes 4
  manage.py raft worker --burst                  run what is due, and end

exit codes:
  0  stopped as asked, or nothing is due any more (--burst)
  1  not started, or a worker failed: the message says why
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--queues", default="", metavar="A,B", help="serve only these (default: all)")
        parser.add_argument("--threads", type=int, default=1, help="tasks at once in each process (default: 1)")
        parser.add_argument("--processes", type=int, default=1, help="(default: 1)")
        parser.add_argument("--burst", action="store_true", help="end when nothing is due any more")
        parser.add_argument("--progress", type=float, default=10, metavar="S", help="a line every S s (default: 10)")

    def run(self, options: dict[str, Any], output: Output) -> int:
        require_queue()
        for name in ("threads", "processes"):
            if options[name] < 1:
                raise CommandError(f"--{name} is {options[name]}; at least 1 is needed")
        autodiscover_modules("tasks")
        if options["processes"] == 1:
            return work(options, output)
        return supervise(options, output)


def require_queue() -> None:
    if not apps.is_installed("raftlog.contrib.queue"):
        raise CommandError('add "raftlog.contrib.queue" to INSTALLED_APPS, and migrate')


def work(options: dict[str, Any], output: Output) -> int:
    """One worker, in this process."""
    from raftlog.contrib.queue import Worker

    queues = [name.strip() for name in options["queues"].split(",") if name.strip()]
    worker = Worker(
        queues,
        threads=options["threads"],
        burst=options["burst"],
        tell=output.line,
        tell_interval=options["progress"],
    )

    def asked_to_stop(number: int, frame: Any) -> None:
        worker.stop()
        signal.signal(number, signal.SIG_DFL)  # the second one ends it at once

    before = {number: signal.signal(number, asked_to_stop) for number in SIGNALS}
    output.line(f"{worker.name} serves {', '.join(worker.queues) or 'all queues'} ({options['threads']} threads)")
    try:
        counts = worker.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    output.line(worker.words())
    output.result({"worker": worker.name, **counts._asdict()})
    return 0


def fork_worker(options: dict[str, Any], output: Output) -> int:
    """SIGNALS are blocked. Returns the child's pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = work(options, output)
        finally:
            output.stream.flush()
            os._exit(code)
    return pid


def supervise(options: dict[str, Any], output: Output) -> int:
    """`--processes` workers, forked; one that dies is started again (not with --burst), and the signals go to all."""
    connections.close_all()
    children: set[int] = set()
    stopping = threading.Event()

    def asked_to_stop(number: int, frame: Any) -> None:
        stopping.set()
        for pid in list(children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def start() -> None:
        # A signal that comes meanwhile waits: until the parent knows the child, until the child is not the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not stopping.is_set():
            children.add(fork_worker(options, output))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    for number in SIGNALS:
        signal.signal(number, asked_to_stop)
    for _ in range(options["processes"]):
        start()
    worst = 0
    while children:
        pid, status = os.wait()
        children.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code and not stopping.is_set():
            output.line(f"the worker with pid {pid} ended with {code}", style="red")
            worst = 1
            if not options["burst"]:
                stopping.wait(1)
                start()
    return worst if options["burst"] else 0


VERB = WorkerVerb
