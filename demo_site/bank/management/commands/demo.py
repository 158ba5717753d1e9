"""`manage.py demo`: a cluster on this machine that loses its leader in the middle of writing, and nothing else."""

import shutil
import signal
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

import demo_site
from demo_site.demo.compare import compare
from demo_site.demo.scenario import Result, Scenario
from demo_site.demo.story import Story
from demo_site.room.room import Room
from demo_site.room.web import serve_page
from raftlog.exceptions import RaftlogError
from raftlog.management.commands.raft import HelpFormatter
from raftlog.management.output import Output, table
from raftlog.testing.processes import NodeProcess, ProcessCluster

MAX_NODES = 25
USER = "demo"  # name and password for the admin, where --serve leaves the cluster running
MANAGE = (sys.executable, str(Path(demo_site.__file__).parents[1] / "manage.py"))


class Command(BaseCommand):
    help = "Start a cluster, kill its leader in the middle of writing, and show that nothing was lost or doubled."
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        epilog = (
            "examples:\n"
            "  manage.py demo                     three nodes; the leader is killed\n"
            "  manage.py demo --nodes 7 --kill 3  three of seven at once\n"
            "  manage.py demo --serve             a page on which you kill, pause and cut off nodes yourself\n"
            "  manage.py demo --serve --nodes 7   the same with seven, of which three may fail\n\n"
            "exit code 0 only if no acknowledged write is missing, none was applied twice and all databases are equal"
        )
        return super().create_parser(prog_name, subcommand, epilog=epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default: 3)")
        parser.add_argument("--kill", type=int, default=None, help="how many at once, the leader first (default: 1)")
        parser.add_argument("--commands", type=int, default=2000, help="how many writes to make (default: 2000)")
        parser.add_argument("--dir", type=Path, help="folder for logs and databases, kept (default: a temporary one)")
        parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
        parser.add_argument("--serve", action="store_true", help="open a page to play with the cluster, until Ctrl-C")
        parser.add_argument("--port", type=int, default=8000, help="of that page, on 127.0.0.1 (default: 8000; 0: any)")
        parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
        parser.add_argument("--json", action="store_true", help="end with one JSON object; the story goes to stderr")

    def handle(self, *args: Any, **options: Any) -> None:
        nodes, kill = options["nodes"], options["kill"]
        kill = (1 if nodes > 2 else 0) if kill is None else kill
        refuse_impossible(nodes, kill, options["commands"])
        directory = make_directory(options["dir"])
        previous = signal.signal(signal.SIGTERM, _exit_on_signal)
        kept = options["dir"] is not None or options["keep"]
        try:
            if options["serve"]:
                output = Output(self.stdout, as_json=options["json"])
                sys.exit(serve(nodes, directory, output, options["port"], browse=not options["no_browser"]))
            result = self._play(directory, nodes, kill, options)
        except KeyboardInterrupt:
            self.stderr.write("interrupted; the nodes were ended")
            sys.exit(130)
        except RaftlogError as error:
            kept = True
            raise CommandError(f"{error}\nThe folders are kept in {directory}") from error
        finally:
            signal.signal(signal.SIGTERM, previous)
            if not kept:
                shutil.rmtree(directory, ignore_errors=True)
        if not result.ok:
            sys.exit(1)

    def _play(self, directory: Path, nodes: int, kill: int, options: dict[str, Any]) -> Result:
        output = Output(self.stdout, as_json=options["json"])
        story_stream = Output(self.stderr).stream if options["json"] else output.stream
        cluster = ProcessCluster(
            nodes,
            directory,
            command=MANAGE,
            options={"CLUSTER": "demo"},
        )
        with cluster:
            with Story(story_stream, list(cluster.nodes), options["commands"]) as story:
                story.say(f"the nodes' folders are in {directory}")
                result = Scenario(cluster, story, commands=options["commands"], kill=kill).run()
            tell(result, output)
            output.result(result.as_dict())
        return result


def refuse_impossible(nodes: int, kill: int, commands: int) -> None:
    """Raises CommandError with the reason why this cannot be shown."""
    if not 1 <= nodes <= MAX_NODES:
        raise CommandError(f"--nodes {nodes}: choose from 1 to {MAX_NODES}.")
    most, majority = (nodes - 1) // 2, nodes // 2 + 1
    if not 0 <= kill <= most:
        raise CommandError(
            f"--kill {kill}: of {nodes} nodes at most {most} may be down, since a majority ({majority}) must be up "
            f"to elect a leader and to write. {2 * kill + 1} nodes survive {kill}."
            if kill > 0
            else f"--kill {kill}: it cannot be negative."
        )
    if commands < 1:
        raise CommandError(f"--commands {commands}: at least 1 is needed.")


def make_directory(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="raftlog-demo-"))
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise CommandError(
            f"--dir {directory}: it is not empty; each demo is a new cluster and needs a folder of its own."
        )
    return directory


def make_user(node: NodeProcess) -> None:
    node.manage("createsuperuser", "--noinput", "--username", USER, "--email", "demo@localhost")


def tell(result: Result, output: Output) -> None:
    """The summary for people."""
    rows = [
        ["acknowledged", result.acknowledged, "writes whose writer was told that they are done"],
        ["by transactions", result.transactions, "of them plain ORM code in atomic(); the others are commands"],
        ["lost", result.lost, "acknowledged, but missing in some node's database"],
        ["doubled", result.doubled, "applied more than once"],
        ["databases equal", result.databases_equal, "all rows of all replicated tables, on all nodes"],
        ["failover", in_ms(result.failover_ms), "from kill -9 until another node leads"],
        ["write gap", in_ms(result.write_gap_ms), "longest time without an acknowledged write around the kill"],
        [
            "catch-up",
            in_ms(result.catch_up_ms),
            "from starting the killed again until they had applied what they missed",
        ],
    ]
    output.line()
    output.show(table(["", "", ""], rows))
    for problem in result.problems:
        output.line(f"PROBLEM: {problem}", "bold red")
    verdict = "OK: nothing lost, nothing doubled, all databases equal." if result.ok else "FAILED."
    output.line(verdict, "bold green" if result.ok else "bold red")


def in_ms(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} ms"


def serve(nodes: int, directory: Path, output: Output, port: int, *, browse: bool) -> int:
    """The page, until Ctrl-C or SIGTERM; then everything is brought back and compared. Returns the exit code."""
    room = Room(nodes, directory, MANAGE, {"DJANGO_SUPERUSER_PASSWORD": USER})
    try:
        output.line(f"starting {nodes} nodes, each a process with a database of its own (in {directory})")
        room.start()
        make_user(next(iter(room.cluster)))
        room.open()
        serve_page(room, port, lambda address: told(room, output, address, browse=browse))
        output.line("bringing all nodes back, to compare their databases")
        index = room.heal()
        found = compare({node.node_id: node.database for node in room.cluster}, ())
        result = {"ok": found.ok, "nodes": nodes, "acknowledged": room.acknowledged, "index": index}
        result |= {"databases_equal": found.databases_equal, "problems": list(found.problems())}
        output.result(result)
        for problem in found.problems():
            output.line(f"PROBLEM: {problem}", "bold red")
        output.line(f"{room.acknowledged} writes acknowledged; longest pause {room.longest_gap * 1000:,.0f} ms.")
        output.line("OK: all databases equal, no money made or lost." if found.ok else "FAILED.")
        return 0 if found.ok else 1
    finally:
        room.close()


def told(room: Room, output: Output, address: str, *, browse: bool) -> None:
    output.line(f"\nOpen {address}   (Ctrl-C ends it)", "bold")
    for node_id, port in room.site_ports.items():
        output.line(f"  {node_id}: its site at http://127.0.0.1:{port}/")
    output.line(f"each has an admin at /admin/ (user {USER}, password {USER}), with the cluster in it")
    if browse:
        webbrowser.open(address)


def _exit_on_signal(number: int, frame: Any) -> None:
    sys.exit(128 + number)
