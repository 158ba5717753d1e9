"""The command: `python -m raftlog.testing.torture --minutes 5`."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raftlog.exceptions import RaftlogError
from raftlog.runtime import clock

LINE_INTERVAL = 10.0  # seconds between two lines of progress where there is no terminal

EPILOG = """\
Starts nodes (`manage.py raft run`, each with a database of its own) and client processes, and strikes them with the
faults of --list-faults, alone and together, after a schedule drawn from the seed. At the end all is healed, and it is
checked that no acknowledged command was lost, none applied twice, all databases are equal, every node that must stop
did and no other, and what the clients saw is linearizable.

--workload orm: the clients are applications beside the nodes, which use the ORM on raftlog.backends.sqlite3 (transfers
in atomic(), get_or_create(), bulk_create(), deletes). Money must be conserved at every read, every committed
transaction be there once, and some serial order explain all that was read.

Network namespaces (--network netns; root on Linux) lose what is cut; proxies hold it back. No fault touches the machine
itself: disks fill up, slow down and fail by a hook in the nodes' storage (RAFTLOG_TEST_STORAGE_FAULTS).

exit codes:
  0  passed
  1  violated: the report says what, and where the databases, logs and records of the run are
  2  not started, or not finished
"""


class Progress:
    """What goes on: one line that changes on a terminal, else a line every ten seconds. Always on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._began = clock.monotonic()
        self._next_line = 0.0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def tell(self, text: str) -> None:
        now = clock.monotonic()
        line = f"{now - self._began:7.1f} s  {text}"
        if self._console.is_terminal:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif now >= self._next_line or not text.startswith("round"):
            self._next_line = now + LINE_INTERVAL
            self._console.print(line, soft_wrap=True, markup=False)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m raftlog.testing.torture",
        description="Real nodes under real faults.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--minutes", type=float, default=2.0, help="how long faults strike (default 2)")
    made.add_argument("--nodes", type=int, default=5, help="how many nodes (default 5)")
    made.add_argument("--seed", type=int, help="of the schedule (default: a fresh one; it is printed)")
    made.add_argument("--network", choices=("auto", "netns", "proxy"), default="auto", help="how pairs are cut")
    made.add_argument("--workload", choices=("commands", "orm"), default="commands", help="what clients do")
    made.add_argument(
        "--mutation", default="", help="a bug, with --workload orm, that must be found; see --list-mutations"
    )
    made.add_argument("--list-mutations", action="store_true", help="name the bugs and end")
    made.add_argument("--faults", metavar="NAME,…", help="only these (default: all)")
    made.add_argument("--list-faults", action="store_true", help="name the faults and end")
    made.add_argument("--clients", type=int, default=4, help="client processes (default 4)")
    made.add_argument("--threads", type=int, default=3, help="threads in each of them (default 3)")
    made.add_argument("--json", action="store_true", help="the report as one JSON object on stdout")
    made.add_argument("--report", type=Path, metavar="FILE", help="write the report, as text, here too")
    made.add_argument("--directory", type=Path, help="where databases, logs and records go; kept (default: temporary)")
    return made


def main(arguments: list[str] | None = None) -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "raftlog.testing.torture_site.settings")
    from raftlog.testing.torture.run import Options, torture
    from raftlog.testing.torture.schedule import BY_NAME, KINDS
    from raftlog.testing.torture_site.mutations import MUTATIONS

    made = parser()
    given = made.parse_args(arguments)
    if given.list_faults:
        sys.stdout.write("".join(f"{kind.name:<20} {kind.title}\n" for kind in KINDS))
        return 0
    if given.list_mutations:
        sys.stdout.write("".join(f"{name:<30} {function.__doc__}\n" for name, function in MUTATIONS.items()))
        return 0
    if given.mutation and (given.workload != "orm" or given.mutation not in MUTATIONS):
        made.error("--mutation: one of --list-mutations, with --workload orm")
    kinds = tuple(given.faults.split(",")) if given.faults else tuple(BY_NAME)
    unknown = [name for name in kinds if name not in BY_NAME]
    if unknown:
        made.error(f"--faults: {', '.join(unknown)} not known; see --list-faults")
    if given.minutes <= 0 or not 1 <= given.nodes <= 9 or given.clients < 1 or given.threads < 1:
        made.error("--minutes, --clients and --threads must be positive, --nodes from 1 to 9")
    options = Options(
        minutes=given.minutes,
        seed=secrets.randbelow(1 << 31) if given.seed is None else given.seed,
        nodes=given.nodes,
        network=given.network,
        clients=given.clients,
        threads=given.threads,
        kinds=kinds,
        workload=given.workload,
        mutation=given.mutation,
        directory=given.directory,
    )
    # SIGTERM must end what was started, too: as an exception, like Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        with Progress() as progress:
            progress.tell(f"seed {options.seed}: {options.command}")
            report = torture(options, progress.tell)
    except (RaftlogError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 2
    text = report.text()
    if given.report:
        given.report.write_text(text)
    sys.stdout.write(json.dumps(report.as_json()) + "\n" if given.json else text)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
