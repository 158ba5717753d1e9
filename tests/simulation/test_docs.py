"""The examples of docs/howto/testing.md run as they stand there."""

import re
from pathlib import Path

from raftlog.testing.history import Operation
from raftlog.testing.linearizability import check

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "testing.md"


def test_the_examples_run(capsys):
    names = {}
    # Those that are files of a project are run in one: tests/testing/test_pytest_plugin.py.
    for block in re.findall(r"(?<!-->\n)```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    assert "bob: get(x) -> None" in capsys.readouterr().out
    assert names["page"].startswith("<!doctype html>")
    account = names["Account"]()
    deposit = Operation("a", "deposit", 5, None, 0.0, 1.0, None)
    assert check([deposit, Operation("b", "balance", None, None, 2.0, 3.0, 5)], account).is_linearizable
    assert not check([deposit, Operation("b", "balance", None, None, 2.0, 3.0, 0)], account).is_linearizable
