"""Long runs against real node processes, with the leader killed again and again: `python -m raftlog.testing.trials`.

One module each, with a subclass of `Trial` as TRIAL. The tests call the same trials with small numbers.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

Tell = Callable[[str], None]


class Trial:
    """What is tried, on how much, and what must hold at the end."""

    name: ClassVar[str]
    help: ClassVar[str]
    # Of this process, where the trial needs Django in it.
    settings_module: ClassVar[str] = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """--seed, --nodes and --json are there."""

    def run(self, options: dict[str, Any], directory: Path, rng: random.Random, tell: Tell) -> dict[str, Any]:
        """The report, as plain data. Its "problems" (list of str) are what did not hold; it is empty where all did."""
        raise NotImplementedError
