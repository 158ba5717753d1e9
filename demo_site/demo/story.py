"""How the demo tells what happens: a table that moves in a terminal, plain lines elsewhere."""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raftlog.runtime import clock

REDRAW_INTERVAL = 0.1  # seconds
COLORS = {"leader": "bold green", "follower": "cyan", "candidate": "yellow", "pre_candidate": "yellow"}


class Story:
    """say() adds a line; show() refreshes the picture of the cluster. Use as a context manager, from one thread."""

    def __init__(self, stream: TextIO, nodes: list[str], total: int) -> None:
        self.console = Console(file=stream, highlight=False)
        self.nodes = nodes
        self.total = total
        self._started_at = clock.monotonic()
        self._told_quarters = 0
        self._shown_at = float("-inf")
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Story":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        elapsed = clock.monotonic() - self._started_at
        self.console.print(Text.assemble((f"{elapsed:6.2f} s  ", "dim"), (text, style)), soft_wrap=True)

    def show(self, statuses: Mapping[str, dict[str, Any] | None], down: set[str], acknowledged: int) -> None:
        if self.console.is_terminal:
            now = clock.monotonic()
            if now - self._shown_at >= REDRAW_INTERVAL:
                self._shown_at = now
                self._live.update(self._picture(statuses, down, acknowledged), refresh=True)
            return
        quarters = 4 * acknowledged // self.total if self.total else 0
        if quarters > self._told_quarters:
            self._told_quarters = quarters
            self.say(f"{acknowledged} of {self.total} writes acknowledged")

    def _picture(self, statuses: Mapping[str, Any], down: set[str], acknowledged: int) -> Group:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("node", "role", "term", "committed", "applied"):
            table.add_column(name, justify="left" if name in ("node", "role") else "right", min_width=10)
        for node_id in self.nodes:
            status = statuses.get(node_id)
            if status is None:
                killed = node_id in down
                table.add_row(node_id, Text("killed" if killed else "starting", "bold red" if killed else "dim"))
            else:
                numbers = (str(status[name]) for name in ("current_term", "commit_index", "last_applied"))
                role = str(status["role"])
                table.add_row(node_id, Text(role, COLORS.get(role, "")), *numbers)
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            "acknowledged",
            ProgressBar(total=max(1, self.total), completed=acknowledged, width=40),
            f"{acknowledged} of {self.total}",
        )
        return Group(Text(), table, progress)
