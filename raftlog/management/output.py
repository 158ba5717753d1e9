"""What a command prints, once for all verbs: a table or lines for people, one JSON object for scripts."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from typing import Any, Final, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table

MEASURED: Final = 1_000  # columns of a terminal in which every table has its full width


class Output:
    """With `as_json`, only result() prints, and prints one JSON object; without, all but result() do."""

    def __init__(self, stream: Any, *, as_json: bool = False) -> None:
        self.stream: TextIO = getattr(stream, "_out", stream)  # Django's OutputWrapper adds newlines of its own
        self.as_json = as_json
        self.console = Console(file=self.stream, highlight=False)

    @property
    def is_terminal(self) -> bool:
        return not self.as_json and self.console.is_terminal

    def line(self, text: str = "", style: str | None = None) -> None:
        """A line for people, kept whole however narrow the terminal is."""
        if not self.as_json:
            self.console.print(text, style=style, markup=False, soft_wrap=True)
            self.stream.flush()

    def show(self, renderable: RenderableType) -> None:
        """A table or another thing of rich, for people. Outside a terminal it takes the width that it needs."""
        if self.as_json:
            return
        if self.console.is_terminal:
            self.console.print(renderable)
        else:
            wide = Console(file=io.StringIO(), width=max(160, shutil.get_terminal_size().columns), highlight=False)
            with wide.capture() as captured:
                wide.print(renderable)
            self.stream.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
        self.stream.flush()

    def result(self, value: Any) -> None:
        """The whole answer, for scripts."""
        if self.as_json:
            self.stream.write(json.dumps(value, default=str) + "\n")
            self.stream.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> Table:
    """Numbers are right-aligned; None shows as a dash, a boolean as yes or no."""
    made = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
    )
    for position, column in enumerate(columns):
        numbers = any(isinstance(row[position], (int, float)) and not isinstance(row[position], bool) for row in rows)
        made.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(shown(value) for value in row))
    return made


class Foldable:
    """One table where the terminal is wide enough for it, else two, cut before column `at`; both name the rows."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], at: int) -> None:
        self._whole = table(columns, rows)
        self._parts = (
            table(columns[:at], [row[:at] for row in rows]),
            table([columns[0], *columns[at:]], [[row[0], *row[at:]] for row in rows]),
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = console.measure(self._whole, options=options.update(width=MEASURED)).maximum <= options.max_width
        yield from [self._whole] if fits else self._parts


def shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
