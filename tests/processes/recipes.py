"""The recipes of docs/operations.md, carried out: commands are taken from the page, only addresses and paths differ.

<!-- recipe: NAME -->
```console
a$ manage.py raft …
a$ systemctl restart shop-node
```
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from raftlog.testing.processes import ProcessCluster

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
RECIPE = re.compile(r"<!-- recipe: ([\w-]+) -->\n```console\n(.*?)```", re.DOTALL)
LINE = re.compile(r"([a-z])\$ (?:manage\.py (.*)|(systemctl (?:stop|restart) shop-node))")
TIMEOUT = 120


def steps(name: str) -> list[tuple[str, list[str]]]:
    """(node id, arguments of manage.py, or systemctl and its own) of each line."""
    (text,) = [text for found, text in RECIPE.findall(PAGE.read_text()) if found == name]
    matches = [LINE.fullmatch(line) for line in text.splitlines()]
    assert matches
    assert all(matches), text
    return [(match[1], shlex.split(match[2] or match[3])) for match in matches]


def follow(
    name: str, cluster: ProcessCluster, instead: Mapping[str, str] = {}, hosts: Mapping[str, str] = {}
) -> list[str]:
    """Carry it out, each line on its node; returns what each printed.

    `instead` has what stands for words of the page, `hosts` which node stands for another of the page.
    """
    printed = []
    for host, arguments in steps(name):
        node_id = hosts.get(host, host)
        node = cluster[node_id]
        if arguments[0] == "systemctl":
            assert node.stop(TIMEOUT) == 0
        if arguments == ["raft", "run"] or arguments[:2] == ["systemctl", "restart"]:
            node.start()
            cluster.wait_for(lambda found, node_id=node_id: found[node_id], TIMEOUT, f"{node_id} answers")
            printed.append("")
        elif arguments[0] == "systemctl":
            printed.append("")
        else:
            printed.append(node.manage(*[instead.get(word, word) for word in arguments], timeout=TIMEOUT))
    return printed
